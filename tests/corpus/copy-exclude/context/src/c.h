src / c.h
