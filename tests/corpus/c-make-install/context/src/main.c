#include <stdio.h>
#include "count.h"
int main(int argc, char **argv)
{
	(void)argc;
	return printf("%d\n", count(argv + 1)) < 0;
}
