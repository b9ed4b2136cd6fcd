/* SPDX-License-Identifier: Apache-2.0 */
/* The server behind RUN --mount=type=ssh, against clients that do not behave: each is refused or dropped, others are served
 * meanwhile, and the end of the server waits for nobody (RCP-269, SEC-B14). */
#include "builder/ssh_agent.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "formats/ssh_key.h"

struct fixture {
	struct ssh_source source;
	struct ssh_server *server;
	char path[64];
};

static int start(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct err err;

	assert_non_null(fixture);
	snprintf(fixture->path, sizeof(fixture->path), "/tmp/mica-agent-%d", (int)getpid());
	unlink(fixture->path);
	memcpy(address.sun_path, fixture->path, strlen(fixture->path));
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 8), 0);
	assert_int_equal(ssh_source_open("default=tests/data/ssh-keys/ed25519-256,"
					 "tests/data/ssh-keys/rsa-1024",
					 &fixture->source, &err),
			 0);
	assert_int_equal(ssh_server_new(&fixture->server, &err), 0);
	assert_int_equal(ssh_server_add(fixture->server, &fixture->source, listener, &err), 0);
	assert_int_equal(ssh_server_start(fixture->server, &err), 0);
	*state = fixture;
	return 0;
}

static int stop(void **state)
{
	struct fixture *fixture = *state;

	ssh_server_free(fixture->server);
	ssh_source_close(&fixture->source);
	unlink(fixture->path);
	free(fixture);
	return 0;
}

static int client(const struct fixture *fixture)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, fixture->path, strlen(fixture->path));
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* The answer's type and body; -1 when the connection ends instead. */
static int ask(int fd, const void *message, size_t len, struct buf *body)
{
	uint8_t head[4] = { 0 };
	uint32_t size;
	struct str rest = str_of(head, sizeof(head));
	char *room;

	assert_int_equal(send(fd, message, len, MSG_NOSIGNAL), len);
	if (recv(fd, head, sizeof(head), MSG_WAITALL) != sizeof(head))
		return -1;
	assert_true(ssh_take_u32(&rest, &size) && size > 0 && size < 100000);
	buf_clear(body);
	room = buf_reserve(body, size);
	assert_non_null(room);
	assert_int_equal(recv(fd, room, size, MSG_WAITALL), size);
	buf_commit(body, size);
	return (uint8_t)body->data[0];
}

#define LIST "\0\0\0\1\13"

static void lists_and_signs(void **state)
{
	struct fixture *fixture = *state;
	struct buf body = BUF_INIT(1 << 17), request = BUF_INIT(1 << 17),
		   framed = BUF_INIT(1 << 17);
	int fd = client(fixture);
	struct str rest, blob, comment;
	uint32_t count;

	assert_int_equal(ask(fd, LIST, 5, &body), 12);
	rest = str_from_index(buf_str(&body), 1);
	assert_true(ssh_take_u32(&rest, &count) && count == 2);
	assert_true(ssh_take_string(&rest, &blob) && ssh_take_string(&rest, &comment));
	assert_true(str_is(comment, "fuzz"));
	buf_putc(&request, 13);
	ssh_put_string(&request, blob);
	ssh_put_string(&request, STR("data"));
	ssh_put_u32(&request, 0);
	ssh_put_string(&framed, buf_str(&request));
	assert_int_equal(ask(fd, framed.data, framed.len, &body), 14);
	/* Of a key that it does not have, and cut short. */
	framed.data[framed.len - 20] ^= 1;
	framed.data[4 + 1 + 4 + 10] ^= 1;
	assert_int_equal(ask(fd, framed.data, framed.len, &body), 5);
	assert_int_equal(ask(fd, "\0\0\0\3\15\0\0", 7, &body), 5);
	close(fd);
	buf_release(&body);
	buf_release(&request);
	buf_release(&framed);
}

static void refuses_the_rest(void **state)
{
	struct buf body = BUF_INIT(1 << 17);
	int fd = client(*state), type;

	for (type = 0; type < 256; type++) {
		const char message[5] = { 0, 0, 0, 1, (char)type };

		if (type != 11)
			assert_int_equal(ask(fd, message, sizeof(message), &body), 5);
	}
	close(fd);
	buf_release(&body);
}

static void bad_clients(void **state)
{
	struct buf body = BUF_INIT(1 << 17);
	int silent = client(*state), partial = client(*state), empty = client(*state),
	    huge = client(*state), good = client(*state), i;

	assert_int_equal(send(partial, "\0\0\1", 3, 0), 3);
	assert_int_equal(ask(empty, "\0\0\0\0", 4, &body), -1);
	assert_int_equal(ask(huge, "\377\377\377\377", 4, &body), -1);
	/* Two requests at once, and one in pieces. */
	assert_int_equal(ask(good, LIST LIST, 10, &body), 12);
	assert_int_equal(send(good, LIST, 3, 0), 3);
	assert_int_equal(ask(good, &LIST[3], 2, &body), 12);
	/* One that never reads is dropped when its socket is full. */
	for (i = 0; i < 100000 && send(silent, LIST, 5, MSG_NOSIGNAL) == 5; i++)
		;
	assert_true(i < 100000);
	assert_int_equal(ask(good, LIST, 5, &body), 12);
	close(good);
	close(huge);
	close(empty);
	close(partial);
	close(silent);
	buf_release(&body);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(lists_and_signs, start, stop),
		cmocka_unit_test_setup_teardown(refuses_the_rest, start, stop),
		cmocka_unit_test_setup_teardown(bad_clients, start, stop),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
