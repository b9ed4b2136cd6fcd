src/c.h
