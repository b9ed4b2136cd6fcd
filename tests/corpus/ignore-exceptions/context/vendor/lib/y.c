vendor/lib/y.c
