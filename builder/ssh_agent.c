/* SPDX-License-Identifier: Apache-2.0 */
/* The server: one thread for all mounts of a RUN, around poll().
 *
 *	command ── client ──► request, whole ──┬─ keys: answered at once
 *	                                       └─ agent ──► its answer, whole ──► client
 *
 * A connection has at most one request in work. Nothing is written that the other end does not take at once: answers are small,
 * and a client that does not read them is dropped instead of being waited for. The agent gets a connection of its own for each
 * client, since agents bind what they know of a session to the connection. */
#include "builder/ssh_agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "formats/base/buf.h"
#include "formats/base/io.h"
#include "formats/base/limits.h"
#include "formats/ssh_key.h"

enum {
	MESSAGE_MAX = 256 << 10, /* as OpenSSH's own agent */
	READ_BYTES = 16 << 10,
	MOUNTS_MAX = 64,
	CLIENTS_MAX = 64, /* of one RUN at a time */
	KEY_FILE_MAX = 64 << 10,
};

/* Messages of draft-miller-ssh-agent. */
enum {
	AGENT_FAILURE = 5,
	AGENT_REQUEST_IDENTITIES = 11,
	AGENT_IDENTITIES_ANSWER = 12,
	AGENT_SIGN_REQUEST = 13,
	AGENT_SIGN_RESPONSE = 14,
	AGENT_EXTENSION = 27,
};

/* --- Sources --- */

static int add_key(struct ssh_source *source, const char *path, struct err *err)
{
	auto_buf struct buf text = BUF_INIT(KEY_FILE_MAX);
	struct ssh_key **keys = reallocarray(source->keys, source->key_count + 1,
					     sizeof(struct ssh_key *));
	int r;

	if (!keys)
		return err_nomem(err);
	source->keys = keys;
	r = io_read_file(AT_FDCWD, path, &text, err);
	if (r == 0)
		r = ssh_key_parse(buf_str(&text), path, &keys[source->key_count], err);
	if (text.data)
		explicit_bzero(text.data, text.len);
	if (r == 0)
		source->key_count++;
	return r;
}

static int add_path(struct ssh_source *source, const char *path, struct err *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_sys(err, errno, "cannot open '%s'", path);
	if (!S_ISSOCK(st.st_mode))
		return source->socket ? err_set(err, ERR_USAGE, "either one socket or keys")
				      : add_key(source, path, err);
	if (source->socket || source->key_count)
		return err_set(err, ERR_USAGE, "either one socket or keys");
	source->socket = strdup(path);
	return source->socket ? 0 : err_nomem(err);
}

static int add_paths(struct ssh_source *source, struct str paths, struct err *err)
{
	bool more = true;
	int r = 0;

	while (more && r == 0) {
		auto_free char *path = NULL;
		struct str item;

		more = str_cut(paths, ',', &item, &paths);
		path = str_dup(item);
		r = path ? add_path(source, path, err) : err_nomem(err);
	}
	return r;
}

int ssh_source_open(const char *text, struct ssh_source *ret_source, struct err *err)
{
	struct ssh_source source = { .key_count = 0 };
	const char *agent = getenv("SSH_AUTH_SOCK");
	struct str id, paths;
	bool has_paths = str_cut(str_from(text), '=', &id, &paths);
	int r;

	if (!id.len)
		return err_set(err, ERR_USAGE, "bad --ssh '%s': ID[=SOCKET|KEY[,KEY...]]", text);
	source.id = str_dup(id);
	if (!source.id)
		return err_nomem(err);
	if (has_paths)
		r = add_paths(&source, paths, err);
	else if (agent && *agent)
		r = add_path(&source, agent, err);
	else
		r = err_set(err, ERR_USAGE, "there is no agent: SSH_AUTH_SOCK is not set");
	if (r < 0) {
		ssh_source_close(&source);
		return err_wrap(err, "--ssh '%s'", text);
	}
	*ret_source = source;
	return 0;
}

void ssh_source_close(struct ssh_source *source)
{
	while (source->key_count)
		ssh_key_free(source->keys[--source->key_count]);
	free(source->keys);
	free(source->id);
	free(source->socket);
	*source = (struct ssh_source){ .key_count = 0 };
}

/* --- The server --- */

struct mount {
	const struct ssh_source *source;
	int listener;
};

struct client {
	const struct ssh_source *source;
	int fd;
	int agent_fd; /* -1: none is needed, or none yet */
	struct buf request, answer;
	bool waiting; /* for the agent's answer */
};

struct ssh_server {
	struct mount mounts[MOUNTS_MAX];
	size_t mount_count;
	struct client *clients[CLIENTS_MAX];
	size_t client_count;
	int stop_fd;
	pthread_t thread;
	bool running;
};

static void drop_client(struct client *client)
{
	close(client->fd);
	if (client->agent_fd >= 0)
		close(client->agent_fd);
	buf_release(&client->request);
	buf_release(&client->answer);
	free(client);
}

/* All at once or not at all. */
static bool send_all(int fd, const struct buf *message)
{
	return !message->failed && send(fd, message->data, message->len,
					MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)message->len;
}

/* Sends a message: its length, then what 'body' holds. */
static bool send_message(int fd, const struct buf *body)
{
	auto_buf struct buf message = BUF_INIT(MESSAGE_MAX + 4);

	if (body->failed)
		return false;
	ssh_put_string(&message, buf_str(body));
	return send_all(fd, &message);
}

static bool refuse(struct client *client)
{
	auto_buf struct buf body = BUF_INIT(16);

	buf_putc(&body, AGENT_FAILURE);
	return send_message(client->fd, &body);
}

static bool list_keys(struct client *client)
{
	auto_buf struct buf body = BUF_INIT(MESSAGE_MAX);
	size_t i;

	buf_putc(&body, AGENT_IDENTITIES_ANSWER);
	ssh_put_u32(&body, (uint32_t)client->source->key_count);
	for (i = 0; i < client->source->key_count; i++) {
		ssh_put_string(&body, ssh_key_public(client->source->keys[i]));
		ssh_put_string(&body, str_from(ssh_key_comment(client->source->keys[i])));
	}
	return send_message(client->fd, &body);
}

static const struct ssh_key *find_key(const struct ssh_source *source, struct str blob)
{
	size_t i;

	for (i = 0; i < source->key_count; i++)
		if (str_eq(ssh_key_public(source->keys[i]), blob))
			return source->keys[i];
	return NULL;
}

static bool sign(struct client *client, struct str request)
{
	auto_buf struct buf body = BUF_INIT(MESSAGE_MAX), signature = BUF_INIT(MESSAGE_MAX);
	const struct ssh_key *key;
	struct str blob, data;
	uint32_t flags;
	struct err err;

	if (!ssh_take_string(&request, &blob) || !ssh_take_string(&request, &data) ||
	    !ssh_take_u32(&request, &flags))
		return refuse(client);
	key = find_key(client->source, blob);
	if (!key || ssh_key_sign(key, data, flags, &signature, &err) < 0)
		return refuse(client);
	buf_putc(&body, AGENT_SIGN_RESPONSE);
	ssh_put_string(&body, buf_str(&signature));
	return send_message(client->fd, &body);
}

/* Through a descriptor, since an address takes no more than 108 bytes of path. Not waited for: an agent that has no room for a
 * connection is none. */
static int connect_agent(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	auto_close int file = open(path, O_PATH | O_CLOEXEC);
	int fd;

	if (file < 0)
		return -1;
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", file);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static bool pass_on(struct client *client, const struct buf *request)
{
	if (client->agent_fd < 0)
		client->agent_fd = connect_agent(client->source->socket);
	if (client->agent_fd < 0 || !send_all(client->agent_fd, request))
		return refuse(client);
	client->waiting = true;
	return true;
}

/* An extension is a name and what belongs to it; the one that clients send says for which host they want signatures. */
static bool is_binding(struct str request)
{
	struct str name;

	return ssh_take_string(&request, &name) && str_is(name, "session-bind@openssh.com");
}

/* One whole request: type and rest are in 'body', the same with its length in 'request'. */
static bool serve(struct client *client, const struct buf *request, struct str body)
{
	uint8_t type = body.len ? (uint8_t)body.ptr[0] : 0;
	struct str rest = str_from_index(body, 1);
	bool allowed = type == AGENT_REQUEST_IDENTITIES || type == AGENT_SIGN_REQUEST ||
		       (type == AGENT_EXTENSION && is_binding(rest));

	if (!allowed)
		return refuse(client);
	if (client->source->socket)
		return pass_on(client, request);
	if (type == AGENT_REQUEST_IDENTITIES)
		return list_keys(client);
	return type == AGENT_SIGN_REQUEST ? sign(client, rest) : refuse(client);
}

/* Appends what can be read to 'buf'; false at the end of the connection. */
static bool receive(int fd, struct buf *buf)
{
	char bytes[READ_BYTES];
	ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);

	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	buf_append(buf, bytes, (size_t)got);
	return got > 0 && !buf->failed;
}

/* Whether 'buf' starts with a whole message; '*ret_good' is false for one that is too long. */
static bool has_message(const struct buf *buf, struct str *ret_body, bool *ret_good)
{
	struct str rest = buf_str(buf);
	uint32_t len;

	*ret_good = true;
	if (!ssh_take_u32(&rest, &len))
		return false;
	*ret_good = len > 0 && len <= MESSAGE_MAX;
	if (!*ret_good || rest.len < len)
		return false;
	*ret_body = str_sub(rest, 0, len);
	return true;
}

static void drop_front(struct buf *buf, size_t len)
{
	memmove(buf->data, buf->data + len, buf->len - len);
	buf_truncate(buf, buf->len - len);
}

/* Requests that are there and may be served now. */
static bool serve_requests(struct client *client)
{
	bool good = true;
	struct str body;

	while (!client->waiting && has_message(&client->request, &body, &good)) {
		auto_buf struct buf one = BUF_INIT(MESSAGE_MAX + 4);

		buf_append(&one, client->request.data, body.len + 4);
		if (one.failed || !serve(client, &one, body))
			return false;
		drop_front(&client->request, body.len + 4);
	}
	return good;
}

static bool take_answer(struct client *client)
{
	bool good;
	struct str body;

	if (!receive(client->agent_fd, &client->answer))
		return false;
	if (!has_message(&client->answer, &body, &good))
		return good;
	/* An answer that nobody asked for, or two: no agent. */
	if (!client->waiting || client->answer.len != body.len + 4 ||
	    !send_all(client->fd, &client->answer))
		return false;
	buf_clear(&client->answer);
	client->waiting = false;
	return serve_requests(client);
}

static void accept_client(struct ssh_server *server, const struct mount *mount)
{
	int fd = accept4(mount->listener, NULL, NULL, SOCK_CLOEXEC);
	struct client *client;

	if (fd < 0)
		return;
	client = server->client_count < CLIENTS_MAX ? calloc(1, sizeof(*client)) : NULL;
	if (!client) {
		close(fd);
		return;
	}
	client->source = mount->source;
	client->fd = fd;
	client->agent_fd = -1;
	buf_init(&client->request, MESSAGE_MAX + READ_BYTES + 4);
	buf_init(&client->answer, MESSAGE_MAX + 4);
	server->clients[server->client_count++] = client;
}

/* Events of one client; false: it is done with. */
static bool look_after(struct client *client, const struct pollfd *from_client,
		       const struct pollfd *from_agent)
{
	if (from_agent->revents && !take_answer(client))
		return false;
	if (!from_client->revents)
		return true;
	return receive(client->fd, &client->request) && serve_requests(client);
}

/* Room for further requests is made by the answer to this one. */
static void watch(const struct client *client, struct pollfd *from_client,
		  struct pollfd *from_agent)
{
	*from_client = (struct pollfd){ .fd = client->fd, .events = client->waiting ? 0 : POLLIN };
	*from_agent = (struct pollfd){ .fd = client->agent_fd, .events = POLLIN };
}

static void *run_server(void *argument)
{
	struct ssh_server *server = argument;
	struct pollfd watched[1 + MOUNTS_MAX + 2 * CLIENTS_MAX];

	for (;;) {
		size_t mounts = server->mount_count, clients = server->client_count, i, kept = 0;
		struct pollfd *of_clients = watched + 1 + mounts;

		watched[0] = (struct pollfd){ .fd = server->stop_fd, .events = POLLIN };
		for (i = 0; i < mounts; i++)
			watched[1 + i] = (struct pollfd){ .fd = server->mounts[i].listener,
							  .events = POLLIN };
		for (i = 0; i < clients; i++)
			watch(server->clients[i], &of_clients[2 * i], &of_clients[2 * i + 1]);
		if (poll(watched, 1 + mounts + 2 * clients, -1) < 0 && errno != EINTR)
			return NULL;
		if (watched[0].revents)
			return NULL;
		for (i = 0; i < clients; i++) {
			struct client *client = server->clients[i];

			if (look_after(client, &of_clients[2 * i], &of_clients[2 * i + 1]))
				server->clients[kept++] = client;
			else
				drop_client(client);
		}
		server->client_count = kept;
		for (i = 0; i < mounts; i++)
			if (watched[1 + i].revents)
				accept_client(server, &server->mounts[i]);
	}
}

int ssh_server_new(struct ssh_server **ret_server, struct err *err)
{
	struct ssh_server *server = calloc(1, sizeof(*server));

	if (!server)
		return err_nomem(err);
	server->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (server->stop_fd < 0) {
		free(server);
		return err_sys(err, errno, "cannot start the agent of a RUN");
	}
	*ret_server = server;
	return 0;
}

int ssh_server_add(struct ssh_server *server, const struct ssh_source *source, int listener,
		   struct err *err)
{
	if (server->mount_count == MOUNTS_MAX) {
		close(listener);
		return err_set(err, ERR_LIMIT, "more than %d mounts of type ssh", MOUNTS_MAX);
	}
	server->mounts[server->mount_count++] = (struct mount){ source, listener };
	return 0;
}

int ssh_server_start(struct ssh_server *server, struct err *err)
{
	sigset_t all, old;
	int code;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	code = pthread_create(&server->thread, NULL, run_server, server);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	server->running = code == 0;
	return code ? err_sys(err, code, "cannot start the agent of a RUN") : 0;
}

void ssh_server_free(struct ssh_server *server)
{
	const uint64_t one = 1;

	if (!server)
		return;
	if (server->running) {
		(void)!write(server->stop_fd, &one, sizeof(one));
		pthread_join(server->thread, NULL);
	}
	while (server->client_count)
		drop_client(server->clients[--server->client_count]);
	while (server->mount_count)
		close(server->mounts[--server->mount_count].listener);
	close(server->stop_fd);
	free(server);
}
