/* SPDX-License-Identifier: Apache-2.0 */
/* Keys become an EVP_PKEY, whatever file they come from, and everything else is asked of that: the public blob and signatures
 * are the same for both forms of a key. The file of ssh-keygen (PROTOCOL.key of OpenSSH):
 *
 *	"openssh-key-v1\0"  cipher  kdf  kdf options  number of keys  public blob  secret part
 *	secret part: check check  type  numbers of the type  comment  padding 1 2 3 ...
 *
 * Both checks being equal tells a right passphrase from a wrong one; without a cipher they just have to be equal. */
#include "formats/ssh_key.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>

#include "formats/base/limits.h"
#include "formats/digest.h"

#define BEGIN_OPENSSH "-----BEGIN OPENSSH PRIVATE KEY-----"
#define END_OPENSSH   "-----END OPENSSH PRIVATE KEY-----"
#define MAGIC	      "openssh-key-v1"

enum { KEY_TEXT_MAX = 64 << 10, BLOB_MAX = 8 << 10, ED25519_BYTES = 32, RSA_BITS_MAX = 16384 };

enum key_kind { KEY_RSA, KEY_ED25519, KEY_P256, KEY_P384, KEY_P521 };

static const struct {
	const char *name;  /* of the type in ssh */
	const char *curve; /* in ssh */
	const char *group; /* in OpenSSL */
	const char *hash;
	size_t coordinate_bytes;
} kinds[] = {
	[KEY_RSA] = { "ssh-rsa", NULL, NULL, NULL, 0 },
	[KEY_ED25519] = { "ssh-ed25519", NULL, NULL, NULL, 0 },
	[KEY_P256] = { "ecdsa-sha2-nistp256", "nistp256", "prime256v1", "SHA256", 32 },
	[KEY_P384] = { "ecdsa-sha2-nistp384", "nistp384", "secp384r1", "SHA384", 48 },
	[KEY_P521] = { "ecdsa-sha2-nistp521", "nistp521", "secp521r1", "SHA512", 66 },
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

struct ssh_key {
	EVP_PKEY *pkey;
	enum key_kind kind;
	struct buf blob;
	char *comment;
};

void ssh_key_free(struct ssh_key *key)
{
	if (!key)
		return;
	EVP_PKEY_free(key->pkey);
	buf_release(&key->blob);
	free(key->comment);
	free(key);
}

struct str ssh_key_public(const struct ssh_key *key)
{
	return buf_str(&key->blob);
}

const char *ssh_key_comment(const struct ssh_key *key)
{
	return key->comment;
}

/* --- Encoding --- */

bool ssh_take_u32(struct str *rest, uint32_t *ret_number)
{
	const uint8_t *at = (const uint8_t *)rest->ptr;

	if (rest->len < 4)
		return false;
	*ret_number = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
	*rest = str_from_index(*rest, 4);
	return true;
}

bool ssh_take_string(struct str *rest, struct str *ret_string)
{
	uint32_t len;

	if (!ssh_take_u32(rest, &len) || len > rest->len)
		return false;
	*ret_string = str_sub(*rest, 0, len);
	*rest = str_from_index(*rest, len);
	return true;
}

void ssh_put_u32(struct buf *buf, uint32_t number)
{
	const uint8_t bytes[4] = { (uint8_t)(number >> 24), (uint8_t)(number >> 16),
				   (uint8_t)(number >> 8), (uint8_t)number };

	buf_append(buf, bytes, sizeof(bytes));
}

void ssh_put_string(struct buf *buf, struct str string)
{
	ssh_put_u32(buf, (uint32_t)string.len);
	buf_add(buf, string);
}

/* A positive number: no leading zeros, but one where the first bit is set. */
static void put_number(struct buf *buf, const BIGNUM *number)
{
	uint8_t bytes[RSA_BITS_MAX / 8 + 1] = { 0 };
	int len = BN_num_bytes(number);
	bool zero = len > 0 && BN_is_bit_set(number, 8 * len - 1);

	if (len > RSA_BITS_MAX / 8) {
		buf->failed = ERR_LIMIT;
		return;
	}
	BN_bn2bin(number, bytes + 1);
	ssh_put_string(buf, str_of(bytes + !zero, (size_t)len + zero));
}

static BIGNUM *take_number(struct str *rest)
{
	struct str bytes;

	if (!ssh_take_string(rest, &bytes) || bytes.len > RSA_BITS_MAX / 8 + 1)
		return NULL;
	return BN_bin2bn((const uint8_t *)bytes.ptr, (int)bytes.len, NULL);
}

/* --- The public blob --- */

static bool put_rsa(const struct ssh_key *key, struct buf *blob)
{
	BIGNUM *n = NULL, *e = NULL;
	bool known = EVP_PKEY_get_bn_param(key->pkey, OSSL_PKEY_PARAM_RSA_E, &e) &&
		     EVP_PKEY_get_bn_param(key->pkey, OSSL_PKEY_PARAM_RSA_N, &n);

	if (known) {
		put_number(blob, e);
		put_number(blob, n);
	}
	BN_free(n);
	BN_free(e);
	return known;
}

static bool put_ed25519(const struct ssh_key *key, struct buf *blob)
{
	uint8_t bytes[ED25519_BYTES];
	size_t len = sizeof(bytes);

	if (!EVP_PKEY_get_raw_public_key(key->pkey, bytes, &len))
		return false;
	ssh_put_string(blob, str_of(bytes, len));
	return true;
}

/* The point uncompressed: 4, x, y. */
static bool put_ecdsa(const struct ssh_key *key, struct buf *blob)
{
	size_t coordinate = kinds[key->kind].coordinate_bytes;
	uint8_t point[1 + 2 * 66] = { 4 };
	BIGNUM *x = NULL, *y = NULL;
	bool known = EVP_PKEY_get_bn_param(key->pkey, OSSL_PKEY_PARAM_EC_PUB_X, &x) &&
		     EVP_PKEY_get_bn_param(key->pkey, OSSL_PKEY_PARAM_EC_PUB_Y, &y) &&
		     BN_bn2binpad(x, point + 1, (int)coordinate) >= 0 &&
		     BN_bn2binpad(y, point + 1 + coordinate, (int)coordinate) >= 0;

	if (known) {
		ssh_put_string(blob, str_from(kinds[key->kind].curve));
		ssh_put_string(blob, str_of(point, 1 + 2 * coordinate));
	}
	BN_free(x);
	BN_free(y);
	return known;
}

/* Which of our kinds the key is of. */
static bool find_kind(struct ssh_key *key)
{
	char group[32];
	size_t i;

	switch (EVP_PKEY_get_base_id(key->pkey)) {
	case EVP_PKEY_RSA:
		key->kind = KEY_RSA;
		return EVP_PKEY_get_bits(key->pkey) <= RSA_BITS_MAX;
	case EVP_PKEY_ED25519:
		key->kind = KEY_ED25519;
		return true;
	case EVP_PKEY_EC:
		if (!EVP_PKEY_get_group_name(key->pkey, group, sizeof(group), NULL))
			return false;
		for (i = KEY_P256; i < KINDS; i++)
			if (strcmp(kinds[i].group, group) == 0) {
				key->kind = (enum key_kind)i;
				return true;
			}
		return false;
	default:
		return false;
	}
}

static int finish(struct ssh_key *key, const char *shown_name, struct err *err)
{
	bool known;

	if (!find_kind(key))
		return err_set(err, ERR_UNSUPPORTED,
			       "key '%s' is of a kind that is not supported: RSA, ECDSA, Ed25519",
			       shown_name);
	ssh_put_string(&key->blob, str_from(kinds[key->kind].name));
	known = key->kind == KEY_RSA	   ? put_rsa(key, &key->blob)
		: key->kind == KEY_ED25519 ? put_ed25519(key, &key->blob)
					   : put_ecdsa(key, &key->blob);
	if (!known)
		return err_set(err, ERR_FORMAT, "key '%s' is damaged", shown_name);
	if (!key->comment)
		key->comment = strdup(shown_name);
	return key->comment ? buf_check(&key->blob, "public key", err) : err_nomem(err);
}

/* --- Numbers to a key --- */

static EVP_PKEY *pkey_of(const char *type, OSSL_PARAM_BLD *build)
{
	EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
	OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
	EVP_PKEY *pkey = NULL;

	if (context && params && EVP_PKEY_fromdata_init(context) > 0 &&
	    EVP_PKEY_fromdata(context, &pkey, EVP_PKEY_KEYPAIR, params) <= 0)
		pkey = NULL;
	OSSL_PARAM_free(params);
	EVP_PKEY_CTX_free(context);
	return pkey;
}

/* d mod (prime - 1), which the file does not have and OpenSSL wants beside the primes. */
static bool exponent(BIGNUM *result, const BIGNUM *d, const BIGNUM *prime, BN_CTX *context)
{
	BIGNUM *less = BN_dup(prime);
	bool done = less && BN_sub_word(less, 1) && BN_mod(result, d, less, context);

	BN_clear_free(less);
	return done;
}

static EVP_PKEY *read_rsa(struct str *rest)
{
	static const char *const names[] = {
		OSSL_PKEY_PARAM_RSA_N,	       OSSL_PKEY_PARAM_RSA_E,
		OSSL_PKEY_PARAM_RSA_D,	       OSSL_PKEY_PARAM_RSA_COEFFICIENT1,
		OSSL_PKEY_PARAM_RSA_FACTOR1,   OSSL_PKEY_PARAM_RSA_FACTOR2,
		OSSL_PKEY_PARAM_RSA_EXPONENT1, OSSL_PKEY_PARAM_RSA_EXPONENT2
	};
	enum { IN_FILE = 6, D = 2, P = 4, ALL = 8 };
	BIGNUM *numbers[ALL] = { NULL };
	BN_CTX *context = BN_CTX_new();
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	EVP_PKEY *pkey = NULL;
	bool good = context && build;
	size_t i;

	for (i = 0; i < ALL && good; i++) {
		numbers[i] = i < IN_FILE ? take_number(rest) : BN_new();
		good = numbers[i] && !(i >= 4 && i < IN_FILE && BN_is_zero(numbers[i]));
	}
	for (i = IN_FILE; i < ALL && good; i++)
		good = exponent(numbers[i], numbers[D], numbers[P + i - IN_FILE], context);
	for (i = 0; i < ALL && good; i++)
		good = OSSL_PARAM_BLD_push_BN(build, names[i], numbers[i]);
	if (good)
		pkey = pkey_of("RSA", build);
	OSSL_PARAM_BLD_free(build);
	for (i = 0; i < ALL; i++)
		BN_clear_free(numbers[i]);
	BN_CTX_free(context);
	return pkey;
}

static EVP_PKEY *read_ed25519(struct str *rest)
{
	struct str pub, secret;

	/* The secret is the seed with the public key behind it. */
	if (!ssh_take_string(rest, &pub) || !ssh_take_string(rest, &secret) ||
	    secret.len != 2 * (size_t)ED25519_BYTES)
		return NULL;
	return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, (const uint8_t *)secret.ptr,
					    ED25519_BYTES);
}

static EVP_PKEY *read_ecdsa(enum key_kind kind, struct str *rest)
{
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	struct str curve, point;
	BIGNUM *secret = NULL;
	EVP_PKEY *pkey = NULL;

	if (build && ssh_take_string(rest, &curve) && str_is(curve, kinds[kind].curve) &&
	    ssh_take_string(rest, &point) && (secret = take_number(rest)) &&
	    OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, kinds[kind].group,
					    0) &&
	    OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point.ptr,
					     point.len) &&
	    OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_PRIV_KEY, secret))
		pkey = pkey_of("EC", build);
	OSSL_PARAM_BLD_free(build);
	BN_clear_free(secret);
	return pkey;
}

/* --- Files --- */

static int damaged(const char *shown_name, struct err *err)
{
	return err_set(err, ERR_FORMAT, "key '%s' is damaged", shown_name);
}

static int has_passphrase(const char *shown_name, struct err *err)
{
	err_set(err, ERR_AUTH, "key '%s' has a passphrase", shown_name);
	return err_hint(err, "ssh-add '%s', and the agent instead of the key", shown_name);
}

static int read_secret_part(struct str rest, struct ssh_key *key, const char *shown_name,
			    struct err *err)
{
	uint32_t check[2];
	struct str type, comment;
	size_t i;

	if (!ssh_take_u32(&rest, &check[0]) || !ssh_take_u32(&rest, &check[1]) ||
	    check[0] != check[1] || !ssh_take_string(&rest, &type))
		return damaged(shown_name, err);
	for (i = 0; i < KINDS; i++)
		if (str_is(type, kinds[i].name))
			break;
	if (i == KINDS)
		return err_set(err, ERR_UNSUPPORTED,
			       "key '%s' is of a kind that is not supported: RSA, ECDSA, Ed25519",
			       shown_name);
	key->pkey = i == KEY_RSA       ? read_rsa(&rest)
		    : i == KEY_ED25519 ? read_ed25519(&rest)
				       : read_ecdsa((enum key_kind)i, &rest);
	if (!key->pkey || !ssh_take_string(&rest, &comment))
		return damaged(shown_name, err);
	key->comment = str_dup(comment);
	return key->comment ? 0 : err_nomem(err);
}

static int read_openssh(struct str data, struct ssh_key *key, const char *shown_name,
			struct err *err)
{
	struct str cipher, kdf, options, pub, secret;
	uint32_t count;

	if (!str_starts(data, MAGIC) || data.len <= strlen(MAGIC) || data.ptr[strlen(MAGIC)])
		return damaged(shown_name, err);
	data = str_from_index(data, sizeof(MAGIC));
	if (!ssh_take_string(&data, &cipher) || !ssh_take_string(&data, &kdf) ||
	    !ssh_take_string(&data, &options) || !ssh_take_u32(&data, &count) || count != 1 ||
	    !ssh_take_string(&data, &pub) || !ssh_take_string(&data, &secret))
		return damaged(shown_name, err);
	if (!str_is(cipher, "none"))
		return has_passphrase(shown_name, err);
	return read_secret_part(secret, key, shown_name, err);
}

/* Base64 between the lines, as one. */
static int decode_openssh(struct str text, struct ssh_key *key, const char *shown_name,
			  struct err *err)
{
	auto_buf struct buf joined = BUF_INIT(KEY_TEXT_MAX);
	const char *end = memmem(text.ptr, text.len, END_OPENSSH, strlen(END_OPENSSH));
	auto_free char *data = NULL;
	size_t len = 0, i;
	int r;

	if (!end)
		return damaged(shown_name, err);
	for (i = strlen(BEGIN_OPENSSH); text.ptr + i < end; i++)
		if (!strchr(" \t\r\n", text.ptr[i]))
			buf_putc(&joined, text.ptr[i]);
	r = buf_check(&joined, "key", err);
	if (r == 0 && base64_decode(buf_str(&joined), &data, &len, err) < 0)
		r = damaged(shown_name, err);
	if (r == 0)
		r = read_openssh(str_of(data, len), key, shown_name, err);
	if (data)
		explicit_bzero(data, len);
	if (joined.data)
		explicit_bzero(joined.data, joined.len);
	return r;
}

/* Nobody is asked for a passphrase; that one was wanted is remembered. */
static int note_passphrase(char *buf, int size, int writing, void *argument)
{
	(void)buf;
	(void)size;
	(void)writing;
	*(bool *)argument = true;
	return -1;
}

static int read_pem(struct str text, struct ssh_key *key, const char *shown_name, struct err *err)
{
	bool wanted = false;
	BIO *bio = BIO_new_mem_buf(text.ptr, (int)text.len);

	if (!bio)
		return err_nomem(err);
	key->pkey = PEM_read_bio_PrivateKey(bio, NULL, note_passphrase, &wanted);
	BIO_free(bio);
	if (wanted)
		return has_passphrase(shown_name, err);
	if (!key->pkey)
		return err_set(err, ERR_FORMAT, "'%s' is no private key", shown_name);
	return 0;
}

int ssh_key_parse(struct str text, const char *shown_name, struct ssh_key **ret_key,
		  struct err *err)
{
	auto_ssh_key struct ssh_key *key = calloc(1, sizeof(*key));
	int r;

	if (!key)
		return err_nomem(err);
	buf_init(&key->blob, BLOB_MAX);
	text = str_trim(text);
	if (text.len == 0 || text.len > KEY_TEXT_MAX)
		return err_set(err, ERR_FORMAT, "'%s' is no private key", shown_name);
	r = str_starts(text, BEGIN_OPENSSH) ? decode_openssh(text, key, shown_name, err)
					    : read_pem(text, key, shown_name, err);
	if (r == 0)
		r = finish(key, shown_name, err);
	if (r == 0)
		*ret_key = take(key);
	return r;
}

/* --- Signing --- */

static const char *rsa_algorithm(uint32_t flags, const char **ret_hash)
{
	*ret_hash = flags & SSH_SIGN_SHA512   ? "SHA512"
		    : flags & SSH_SIGN_SHA256 ? "SHA256"
					      : "SHA1";
	return flags & SSH_SIGN_SHA512	 ? "rsa-sha2-512"
	       : flags & SSH_SIGN_SHA256 ? "rsa-sha2-256"
					 : "ssh-rsa";
}

/* OpenSSL's signature in DER to the two numbers of ssh. */
static bool put_ecdsa_signature(struct buf *to, const uint8_t *der, size_t len)
{
	ECDSA_SIG *parsed = d2i_ECDSA_SIG(NULL, &der, (long)len);
	struct buf numbers = BUF_INIT(BLOB_MAX);

	if (!parsed)
		return false;
	put_number(&numbers, ECDSA_SIG_get0_r(parsed));
	put_number(&numbers, ECDSA_SIG_get0_s(parsed));
	ECDSA_SIG_free(parsed);
	if (numbers.failed)
		to->failed = numbers.failed;
	ssh_put_string(to, buf_str(&numbers));
	buf_release(&numbers);
	return true;
}

int ssh_key_sign(const struct ssh_key *key, struct str data, uint32_t flags, struct buf *signature,
		 struct err *err)
{
	const char *hash = kinds[key->kind].hash, *algorithm = kinds[key->kind].name;
	uint8_t raw[RSA_BITS_MAX / 8];
	size_t len = sizeof(raw);
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool done;

	if (key->kind == KEY_RSA)
		algorithm = rsa_algorithm(flags, &hash);
	done = context &&
	       EVP_DigestSignInit_ex(context, NULL, hash, NULL, NULL, key->pkey, NULL) > 0 &&
	       EVP_DigestSign(context, raw, &len, (const uint8_t *)data.ptr, data.len) > 0;
	EVP_MD_CTX_free(context);
	if (done) {
		ssh_put_string(signature, str_from(algorithm));
		if (kinds[key->kind].curve)
			done = put_ecdsa_signature(signature, raw, len);
		else
			ssh_put_string(signature, str_of(raw, len));
	}
	if (!done)
		return err_set(err, ERR_UNSUPPORTED, "cannot sign with key '%s'", key->comment);
	return buf_check(signature, "signature", err);
}
