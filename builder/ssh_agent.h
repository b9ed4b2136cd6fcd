/* SPDX-License-Identifier: Apache-2.0 */
/* ssh_agent: what RUN --mount=type=ssh connects to (RCP-269, RCP-508, SEC-B14).
 *
 * The command never gets a connection to the caller's agent: it talks to a server of this process, which takes apart every
 * message. Listing keys and signing are passed on, to the agent or to keys read from files, and what binds a session to a
 * host; adding and removing keys, locking and everything else is refused. The server ends with the step, and with it all
 * connections.
 *
 * Sequence: ssh_source_open() once for each --ssh; ssh_server_new() for a RUN, ssh_server_add() for each mount,
 * ssh_server_start(); ssh_server_free(). A source may serve any number of servers. */
#ifndef BUILDER_SSH_AGENT_H
#define BUILDER_SSH_AGENT_H

#include "formats/base/auto.h"
#include "formats/base/err.h"

/* An id of --ssh: the socket of an agent, or keys. */
struct ssh_source {
	char *id;
	char *socket; /* or NULL */
	struct ssh_key **keys;
	size_t key_count;
};

/* "ID[=SOCKET|KEY[,KEY...]]"; without '=' the agent of SSH_AUTH_SOCK. ERR_USAGE, errors of reading keys. */
int ssh_source_open(const char *text, struct ssh_source *ret_source, struct err *err) must_check;
void ssh_source_close(struct ssh_source *source);

struct ssh_server;
int ssh_server_new(struct ssh_server **ret_server, struct err *err) must_check;
/* Serves 'source', which outlives the server, at 'listener', which it takes. */
int ssh_server_add(struct ssh_server *server, const struct ssh_source *source, int listener,
		   struct err *err) must_check;
int ssh_server_start(struct ssh_server *server, struct err *err) must_check;
void ssh_server_free(struct ssh_server *server); /* ends it and every connection */

#endif
