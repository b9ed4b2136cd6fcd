src / a.c
