vendor/lib/x.h
