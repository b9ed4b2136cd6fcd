/* SPDX-License-Identifier: Apache-2.0 */
/* limits: every bound on foreign input, with its source. A limit error (ERR_LIMIT) names the limit and the object. */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

#define KIB 1024ULL
#define MIB (1024ULL * KIB)
#define GIB (1024ULL * MIB)

/* Recipes: RCP-6. */
#define LIMIT_RECIPE_BYTES	 (16 * MIB)
#define LIMIT_INSTRUCTIONS	 100000U
#define LIMIT_STAGES		 10000U
#define LIMIT_INSTRUCTION_WORDS	 100000U
#define LIMIT_EXPANSION_DEPTH	 100U
#define LIMIT_EXPANSION_BYTES	 (16 * MIB)
#define LIMIT_IGNORE_BYTES	 (1 * MIB)
#define LIMIT_IGNORE_PATTERNS	 100000U
#define LIMIT_IGNORE_PATTERN	 4096U
#define LIMIT_BUILD_ARGS	 10000U
#define LIMIT_ACCOUNT_FILE_BYTES (10 * MIB) /* /etc/passwd, /etc/group of a root filesystem */

/* Registries and images: REG-951. */
#define LIMIT_MANIFEST_BYTES	(4 * MIB) /* manifest, index, config */
#define LIMIT_JSON_DEPTH	64U
#define LIMIT_LAYERS		1000U
#define LIMIT_INDEX_ENTRIES	10000U
#define LIMIT_INDEX_NESTING	4U
#define LIMIT_TOKEN_BYTES	(64 * KIB)
#define LIMIT_ERROR_BODY_BYTES	(64 * KIB)
#define LIMIT_RESPONSE_HEADERS	(256 * KIB)
#define LIMIT_REDIRECTS		10U
#define LIMIT_AUTH_FILE_BYTES	(1 * MIB)
#define LIMIT_ARCHIVE_MANIFEST	(1 * MIB)  /* manifest.json of a docker-archive */
#define LIMIT_LAYER_BYTES	(64 * GIB) /* uncompressed tar; --max-layer-size */
#define LIMIT_LAYER_RATIO	1000U	   /* once LIMIT_LAYER_RATIO_FLOOR bytes came out */
#define LIMIT_LAYER_RATIO_FLOOR (1 * GIB)
#define LIMIT_ZSTD_WINDOW_LOG	27U

/* Layer tars: REG-951, FS-5xx. */
#define LIMIT_TAR_PATH		 4096U
#define LIMIT_TAR_NAME		 255U
#define LIMIT_TAR_DEPTH		 4096U
#define LIMIT_TAR_LINK		 4095U	   /* EROFS symlink target, FS-512 */
#define LIMIT_TAR_PAX_BYTES	 (1 * MIB) /* record set of one entry */
#define LIMIT_TAR_ENTRIES	 10000000U
#define LIMIT_TAR_SPARSE_ENTRIES 1000000U
#define LIMIT_XATTRS_BYTES	 (1 * MIB) /* all of one entry */
#define LIMIT_XATTR_VALUE	 65535U	   /* EROFS, FS-514 */
#define LIMIT_EROFS_DEVICES	 65535U	   /* FS-501 */
#define LIMIT_EROFS_DEVICE_BYTES (1ULL << 41)

#endif
