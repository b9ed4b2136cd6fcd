#include <stdio.h>
#include <unistd.h>
int main(void)
{
	return printf("%d %d %d %d\n", getuid(), geteuid(), getgid(), getegid()) < 0;
}
