#include "count.h"
int count(char **words)
{
	int n = 0;
	while (words[n])
		n++;
	return n;
}
