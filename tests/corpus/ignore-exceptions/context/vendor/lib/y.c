vendor / lib / y.c
