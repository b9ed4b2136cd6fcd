# SPDX-License-Identifier: Apache-2.0
# An ordinary user for one test: it exists only in a mount namespace, as does the /dev/fuse that it may or may not open, so
# nothing of the machine changes.
# shellcheck disable=SC2154,SC2016  # bats sets variables that shellcheck cannot see; the inner shells expand theirs

# Once a file, behind mica_setup_file: the user's things, seen as /mnt by it: mica, base.tar, home.
user_setup_file() {
	local user="$BATS_FILE_TMPDIR/user"
	mkdir "$user"
	chmod 755 "$user"
	cp "$MICA" "$user/mica"
	tar -C "$BATS_FILE_TMPDIR/rootfs" --owner=0 --group=0 --mtime=@1000000 --sort=name -cf "$user/base.tar" .
	chmod a+rX "$user"/*
	{ cat /etc/passwd; echo "micatest:x:4711:4711::/mnt/home:/bin/sh"; } >"$user/passwd"
	echo "micatest:300000:65536" >"$user/ranges"
	: >"$user/single"
	chmod 644 "$user"/{passwd,ranges,single}
}

# as_user IDS SCRIPT [FUSE_MODE]: runs a shell script as the user, in an empty home with image 'base' in its store. IDS:
# "ranges" of subordinate ids, or "single" for a user without.
as_user() {
	local user="$BATS_FILE_TMPDIR/user"
	rm -rf "${user:?}/home"
	install -d -o 4711 -g 4711 "$user/home"
	timeout -s KILL 120 unshare -m bash -c '
		set -e
		mount --make-rprivate /
		mount --bind "$1/passwd" /etc/passwd
		for f in subuid subgid; do mount --bind "$1/$2" "/etc/$f"; done
		mount -t tmpfs -o mode=755 none /mnt
		mknod -m "$4" /mnt/fuse c 10 229
		mount --bind /mnt/fuse /dev/fuse
		mount --bind "$1" /mnt
		cd /mnt/home
		exec setpriv --reuid 4711 --regid 4711 --clear-groups --inh-caps=-all \
			env -i PATH="/mnt:$PATH" HOME=/mnt/home SOURCE_DATE_EPOCH=1000000000 sh -c "
				mica import /mnt/base.tar base >/dev/null && eval \"\$1\"" - "$3"
	' - "$user" "$1" "$2" "${3:-666}"
}

needs_user_namespaces() {
	needs_root
	[ "$(cat /proc/sys/user/max_user_namespaces)" -gt 0 ] || skip "user namespaces are switched off"
	command -v newuidmap >/dev/null || skip "needs newuidmap (package uidmap)"
	command -v fusermount3 >/dev/null || skip "needs fusermount3 (package fuse3)"
}
