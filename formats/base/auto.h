/* SPDX-License-Identifier: Apache-2.0 */
/* auto: variables that release what they own when they leave their scope.
 *
 *	auto_free char *path = NULL;
 *	auto_close int fd = -1;
 *	auto_layer struct layer *layer = NULL;		after DEFINE_AUTO(layer, layer_close)
 *	*ret_fd = take_fd(&fd);				ownership moves to the caller
 *
 * Each is initialised where it is declared. Destructors accept NULL, -1 and half-built objects. */
#ifndef BASE_AUTO_H
#define BASE_AUTO_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void auto_free_(void *pointer)
{
	free(*(void **)pointer);
}

static inline void auto_close_(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void auto_closedir_(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

static inline void auto_fclose_(FILE **file)
{
	if (*file)
		fclose(*file);
}

#define auto_free     __attribute__((cleanup(auto_free_)))
#define auto_close    __attribute__((cleanup(auto_close_)))
#define auto_closedir __attribute__((cleanup(auto_closedir_)))
#define auto_fclose   __attribute__((cleanup(auto_fclose_)))

/* Hands a pointer over: its value, and the variable becomes NULL. */
#define take(pointer)                                   \
	({                                              \
		__typeof__(pointer) taken_ = (pointer); \
		(pointer) = NULL;                       \
		taken_;                                 \
	})

static inline int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

/* Defines the function behind '__attribute__((cleanup(auto_NAME_)))' for 'struct NAME *'; a header adds
 * '#define auto_NAME __attribute__((cleanup(auto_NAME_)))' beside it. */
#define DEFINE_AUTO(name, destroy)                               \
	static inline void auto_##name##_(struct name **pointer) \
	{                                                        \
		if (*pointer)                                    \
			destroy(*pointer);                       \
	}                                                        \
	struct name

/* The same for a struct that lives in place. */
#define DEFINE_AUTO_VALUE(name, release)                      \
	static inline void auto_##name##_(struct name *value) \
	{                                                     \
		release(value);                               \
	}                                                     \
	struct name

#endif
