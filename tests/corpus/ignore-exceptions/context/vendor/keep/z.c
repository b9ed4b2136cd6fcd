vendor/keep/z.c
