vendor / keep / z.c
