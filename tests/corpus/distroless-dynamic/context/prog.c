#include <stdio.h>
#include <zlib.h>
int main(void)
{
	FILE *out = fopen("/tmp/crc", "w");
	return !out || fprintf(out, "%lx\n", crc32(0, (const unsigned char *)"abc", 3)) < 0;
}
