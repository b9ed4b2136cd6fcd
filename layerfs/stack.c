/* SPDX-License-Identifier: Apache-2.0 */
#include "layerfs/stack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int push(struct stack *stack, const struct stack_element *element, struct err *err)
{
	struct stack_element *elements = reallocarray(stack->elements, stack->count + 1,
						      sizeof(*elements));

	if (!elements)
		return err_nomem(err);
	elements[stack->count++] = *element;
	stack->elements = elements;
	return 0;
}

int stack_push_index(struct stack *stack, struct index *index, bool is_layer, struct err *err)
{
	const struct stack_element element = { .index = index,
					       .is_layer = is_layer,
					       .upper_fd = -1 };
	int r = push(stack, &element, err);

	if (r == 0)
		index_ref(index);
	return r;
}

int stack_push_upper(struct stack *stack, int upper_fd, enum mark_family marks, struct err *err)
{
	struct stack_element element = { .upper_fd = fcntl(upper_fd, F_DUPFD_CLOEXEC, 3),
					 .marks = marks };
	int r;

	if (element.upper_fd < 0)
		return err_sys(err, errno, "cannot duplicate the descriptor of a directory");
	r = push(stack, &element, err);
	if (r < 0)
		close(element.upper_fd);
	return r;
}

int stack_copy(const struct stack *stack, struct stack *ret_copy, struct err *err)
{
	struct stack copy = { .count = 0 };
	size_t i;

	for (i = 0; i < stack->count; i++) {
		const struct stack_element *element = &stack->elements[i];
		int r = element->index
				? stack_push_index(&copy, element->index, element->is_layer, err)
				: stack_push_upper(&copy, element->upper_fd, element->marks, err);

		if (r == 0) {
			copy.elements[i].aufs_marks = element->aufs_marks;
			copy.elements[i].changes = element->changes;
			copy.elements[i].override = element->override;
		}

		if (r < 0) {
			stack_release(&copy);
			return r;
		}
	}
	*ret_copy = copy;
	return 0;
}

void stack_release(struct stack *stack)
{
	size_t i;

	for (i = 0; i < stack->count; i++) {
		index_unref(stack->elements[i].index);
		if (!stack->elements[i].index)
			close(stack->elements[i].upper_fd);
	}
	free(stack->elements);
	*stack = (struct stack){ .count = 0 };
}
