/* SPDX-License-Identifier: Apache-2.0 */
/* The spawner as a program of its own; see builder/sandbox/spawner.c. */
#include "builder/sandbox/sandbox.h"

int main(int argc, char **argv)
{
	return sandbox_spawner_main(argc - 1, argv + 1);
}
