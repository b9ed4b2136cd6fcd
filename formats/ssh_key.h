/* SPDX-License-Identifier: Apache-2.0 */
/* ssh_key: private keys of ssh without a passphrase, and what an agent does with them (RCP-269, RCP-508).
 *
 * Reads what ssh-keygen writes ("OPENSSH PRIVATE KEY") and the PEM forms of OpenSSL: RSA, ECDSA over the three NIST curves,
 * Ed25519. Signs as section 4.5 of draft-miller-ssh-agent says. The only module besides digest that includes openssl. A key
 * that is parsed never changes: any thread may use it. */
#ifndef FORMATS_SSH_KEY_H
#define FORMATS_SSH_KEY_H

#include <stdbool.h>
#include <stdint.h>

#include "formats/base/auto.h"
#include "formats/base/buf.h"
#include "formats/base/err.h"
#include "formats/base/str.h"

struct ssh_key;

/* ERR_FORMAT: no private key; ERR_AUTH: it has a passphrase; ERR_UNSUPPORTED: another kind of key. The text names 'shown_name',
 * never anything of the key. */
int ssh_key_parse(struct str text, const char *shown_name, struct ssh_key **ret_key,
		  struct err *err) must_check;
void ssh_key_free(struct ssh_key *key);
struct str ssh_key_public(const struct ssh_key *key); /* the blob that names it */
const char *ssh_key_comment(const struct ssh_key *key);

/* Flags of a sign request: which hash RSA takes (without one SHA-1, as old servers want). */
enum { SSH_SIGN_SHA256 = 2, SSH_SIGN_SHA512 = 4 };
/* Appends algorithm and signature to 'signature'. */
int ssh_key_sign(const struct ssh_key *key, struct str data, uint32_t flags, struct buf *signature,
		 struct err *err) must_check;

/* --- The encoding of ssh: big-endian numbers, strings with their length in front --- */

/* Takes it from the front of '*rest'; false: too short. */
bool ssh_take_u32(struct str *rest, uint32_t *ret_number);
bool ssh_take_string(struct str *rest, struct str *ret_string);
void ssh_put_u32(struct buf *buf, uint32_t number);
void ssh_put_string(struct buf *buf, struct str string);

DEFINE_AUTO(ssh_key, ssh_key_free);
#define auto_ssh_key __attribute__((cleanup(auto_ssh_key_)))

#endif
