#include <stdio.h>
int main(void)
{
	return puts("service " COMMIT " for " TARGET) < 0;
}
