vendor / lib / x.h
