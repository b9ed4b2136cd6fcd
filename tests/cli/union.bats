#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# mica union as users and container engines call it (FS-151, FS-152, FS-206, FS-711, FS-712); what the mount does is judged by
# tests/conformance/union.bats.

load common
load user

setup_file() {
	[ "$(id -u)" = 0 ] || return 0
	mica_setup_file
	user_setup_file
}

setup() {
	[ "$(id -u)" = 0 ] || skip "needs root"
	cd "$BATS_TEST_TMPDIR" || exit
	mkdir lower upper work mnt
	echo below >lower/file
}

teardown() {
	umount -l "$BATS_TEST_TMPDIR/mnt" 2>/dev/null || true
	umount -l "$BATS_TEST_TMPDIR/small" 2>/dev/null || true
	umount -l "$BATS_TEST_TMPDIR/other" 2>/dev/null || true
}

@test "writable, then read-only over what was written" {
	mica union -o lowerdir=lower,upperdir=upper,workdir=work mnt
	echo above >mnt/new
	rm mnt/file
	umount mnt
	[ "$(ls lower)" = file ]
	mica union -o lowerdir=upper:lower mnt
	[ "$(ls mnt)" = new ]
	[ "$(cat mnt/new)" = above ]
	run ! touch mnt/x
	[[ $output == *"Read-only file system"* ]]
}

@test "several lowers, and a colon in a name" {
	mkdir a:b
	echo top >a:b/file
	echo other >a:b/other
	mica union -o 'lowerdir=a\:b:lower' mnt
	[ "$(cat mnt/file)" = top ]
	[ "$(cat mnt/other)" = other ]
}

@test "an image as the lower" {
	tar -C lower -c . | mica import - below >/dev/null
	mica union -o lowerdir=below,upperdir=upper,workdir=work mnt
	echo more >>mnt/file
	[ "$(cat mnt/file)" = $'below\nmore' ]
	umount mnt
	[ "$(mica cat below /file)" = below ]
}

@test "a mount keeps what it shows, whatever becomes of the image: gc takes nothing from it" {
	tar -C lower -c . | mica import - gone >/dev/null
	mkdir other
	mica union -o lowerdir=gone,upperdir=upper,workdir=work mnt
	mica mount --driver fuse gone other
	mica rm gone
	mica gc --all >/dev/null
	run ! mica cat gone /file
	[ "$(cat mnt/file)" = below ]
	[ "$(cat other/file)" = below ]
}

@test "ids are mapped and squashed" {
	chown 1000:1000 lower/file
	mica union -o lowerdir=lower,upperdir=upper,workdir=work,uidmapping=1000:0:1:0:5000:10,gidmapping=1000:0:1:0:5000:10 mnt
	[ "$(stat -c %u:%g mnt/file)" = 0:0 ]
	touch mnt/new
	[ "$(stat -c %u:%g upper/new)" = 1000:1000 ]
	chown 5001:5002 mnt/new
	[ "$(stat -c %u:%g upper/new)" = 1:2 ]
	umount mnt
	mica union -o lowerdir=lower,squash_to_uid=7 mnt
	[ "$(stat -c %u mnt/file)" = 7 ]
	umount mnt
	mica union -o lowerdir=lower,squash_to_root mnt
	[ "$(stat -c %u:%g mnt/file)" = 0:0 ]
}

@test "called as fuse-overlayfs: layers of container engines (FS-203, FS-206)" {
	ln -s "$MICA" fuse-overlayfs
	mkdir -p lower/dir lower/opaque top/opaque
	touch lower/dir/f lower/opaque/old top/.wh.dir top/opaque/.wh..wh..opq top/opaque/new
	touch top/owned
	setfattr -n user.containers.override_stat -v 0:0:0755 top
	setfattr -n user.containers.override_stat -v 12:34:0640 top/owned
	run -0 ./fuse-overlayfs -o lowerdir=top:lower,upperdir=upper,workdir=work,context=x,fast_ino=1 mnt
	[ -z "$output" ]
	[ "$(ls mnt)" = $'file\nopaque\nowned' ]
	[ "$(ls mnt/opaque)" = new ]
	[ "$(stat -c %u:%g:%a mnt/owned)" = 12:34:640 ]
	mkdir mnt/dir
	[ -z "$(ls mnt/dir)" ]
	run ! touch mnt/.wh.x
	umount mnt
	# Without that name these are names.
	mica union -o lowerdir=top:lower mnt
	[ -e mnt/.wh.dir ]
	[ -e mnt/dir/f ]
}

@test "an ordinary user mounts with fusermount3" {
	run as_user single "mkdir l u w m && echo x >l/f && mica union -o lowerdir=l,upperdir=u,workdir=w m && echo y >>m/f &&
		mv m/f m/g && cat m/g && mica umount m && cat l/f"
	echo "$output"
	[ "$status" = 0 ]
	[ "$output" = $'x\ny\nx' ]
}

@test "one writer at a time" {
	mkdir second
	mica union -o lowerdir=lower,upperdir=upper,workdir=work mnt
	run -125 mica union -o lowerdir=lower,upperdir=upper,workdir=work second
	[[ $output == *"another union is writing with this work directory"* ]]
}

@test "what is wrong is said" {
	run -2 mica union mnt
	[[ $output == *"needs lowerdir= or upperdir="* ]]
	run -2 mica union -o lowerdir=lower,upperdir=upper mnt
	[[ $output == *"an upperdir needs a workdir"* ]]
	run -125 mica union -o lowerdir=/nowhere mnt
	[[ $output == *"cannot open the lower directory '/nowhere'"* ]]
	run -2 mica union -o lowerdir=lower,uidmapping=1:2 mnt
	[[ $output == *"uidmapping wants ID:MAPPED:LENGTH"* ]]
	run -0 mica union -o lowerdir=lower,shiny=1 mnt
	[[ $output == *"unknown mount option 'shiny=1'"* ]]
}

@test "a killed server: the upper is taken up again (FS-709)" {
	"$MICA" union -f -o lowerdir=lower,upperdir=upper,workdir=work mnt &
	server=$!
	until mountpoint -q mnt && stat mnt/file 2>/dev/null >/dev/null; do kill -0 $server; done
	chmod 600 mnt/file
	mkdir mnt/dir
	kill -KILL $server
	wait $server || true
	run ! ls mnt/dir
	umount mnt
	touch 'work/work/#dead'
	mica union -o lowerdir=lower,upperdir=upper,workdir=work mnt
	[ "$(stat -c %a mnt/file)" = 600 ]
	[ "$(cat mnt/file)" = below ]
	[ -d mnt/dir ]
	[ ! -e 'work/work/#dead' ]
}

@test "a signal ends the server and its mount" {
	for signal in INT TERM HUP; do
		"$MICA" union -f -o lowerdir=lower,upperdir=upper,workdir=work mnt &
		server=$!
		until mountpoint -q mnt && stat mnt/file 2>/dev/null >/dev/null; do kill -0 $server; done
		kill -$signal $server
		wait $server || true
		run ! mountpoint -q mnt
	done
	mica union -o lowerdir=lower,upperdir=upper,workdir=work "$PWD/mnt"
	pkill -TERM -f "workdir=work $PWD/mnt\$"
	until ! mountpoint -q mnt; do pgrep -f "workdir=work $PWD/mnt\$" >/dev/null || break; done
	run ! mountpoint -q mnt
}

@test "what it is made of is a mount of its own: unmounted below, nothing else is in it" {
	mkdir small other
	mount -t tmpfs none small
	mkdir small/lower small/upper small/work small/lower/inside
	echo x >small/lower/f
	mount -t tmpfs none small/lower/inside
	touch small/lower/inside/not-ours
	mica union -o lowerdir=small/lower,upperdir=small/upper,workdir=small/work mnt
	[ -z "$(ls mnt/inside)" ]
	umount small/lower/inside
	umount small
	echo y >>mnt/f
	mv mnt/f mnt/g
	[ "$(cat mnt/g)" = $'x\ny' ]
}

@test "times of reading are those that the mount was asked for; a lower has none (FS-232)" {
	echo x >upper/new
	touch -d 2000-01-01 upper/new lower/file
	mica union -o lowerdir=lower,upperdir=upper,workdir=work,noatime mnt
	[[ $(findmnt -no OPTIONS mnt) == *noatime* ]]
	cat mnt/new mnt/file
	[ "$(stat -c %x mnt/new lower/file | cut -c1-4 | uniq)" = 2000 ]
	umount mnt
	mica union -o lowerdir=lower,upperdir=upper,workdir=work mnt
	cat mnt/new mnt/file
	[ "$(stat -c %x mnt/new | cut -c1-4)" != 2000 ]
	[ "$(stat -c %x lower/file | cut -c1-4)" = 2000 ]
}

@test "remount: read-only and back" {
	mica union -o lowerdir=lower,upperdir=upper,workdir=work mnt
	mica union -o remount,ro mnt
	run ! touch mnt/x
	[[ $output == *"Read-only file system"* ]]
	mica union -o remount,rw mnt
	touch mnt/x
	run -125 mica union -o remount,ro lower
	[[ $output == *"cannot remount 'lower' read-only"* ]]
}

@test "a full disk fails the change alone" {
	mkdir small
	mount -t tmpfs -o size=1m none small
	mkdir small/upper small/work
	head -c 3000000 /dev/urandom >lower/big
	sum=$(sha256sum <lower/big)
	mica union -o lowerdir=lower,upperdir=small/upper,workdir=small/work mnt
	run ! bash -c "echo x >>mnt/big"
	[[ $output == *"No space left on device"* ]]
	[ "$(sha256sum <mnt/big)" = "$sum" ]
	[ "$(du -k small/upper/big | cut -f1)" -lt 100 ]
	chmod 600 mnt/file
	[ "$(cat mnt/file)" = below ]
	umount mnt
	[ -z "$(ls small/work/work)" ]
	mica union -o lowerdir=lower,upperdir=small/upper,workdir=small/work mnt
	[ "$(sha256sum <mnt/big)" = "$sum" ]
	umount mnt
	umount small
}

@test "more directories than descriptors (FS-706)" {
	mkdir lower2 copy
	for i in $(seq 20); do # 380 directories, half of them of both lowers, and 200 files of two names
		mkdir -p "lower/d$i"/{a,b,c}/{1,2,3,4,5} "lower2/d$i/b/3"
		echo "$i" >"lower/d$i/a/1/f"
		echo "$i" >"lower2/d$i/b/3/f"
		ln "lower/d$i/a/1/f" "lower/d$i/c/5/g"
		for j in $(seq 9); do
			echo "$j" >"lower/d$i/a/2/f$j"
			ln "lower/d$i/a/2/f$j" "lower/d$i/c/4/g$j"
		done
	done
	cp -a lower/. lower2/. copy
	bash -c "ulimit -n 200; exec $MICA union -o lowerdir=lower2:lower,upperdir=upper,workdir=work mnt"
	for _ in 1 2; do
		[ "$(cd mnt && find . | sort)" = "$(cd copy && find . | sort)" ]
	done
	# A directory in use while all others come and go, one that moves, and one that is made of what moved.
	cd mnt/d7/c
	for dir in "$BATS_TEST_TMPDIR"/{mnt,copy}; do
		find "$dir" -exec chmod g+w {} +
		mv "$dir/d3" "$dir/d4/a/moved"
		find "$dir" >/dev/null
		mv "$dir/d4/a" "$dir/d5/new"
		find "$dir" -type f -exec sh -c 'echo more >>"$1"' sh {} \;
		rm -r "$dir/d9" "$dir/d8/b"
		mkdir "$dir/d8/b" "$dir/d9"
		touch "$dir/d8/b/f"
	done
	echo here >5/h
	cd "$BATS_TEST_TMPDIR"
	echo here >copy/d7/c/5/h
	diff -r mnt copy
	[ "$(cd mnt && find . -printf '%P %M %n %s\n' | grep -v '^[^ ]* d' | sort)" = \
		"$(cd copy && find . -printf '%P %M %n %s\n' | grep -v '^[^ ]* d' | sort)" ]
	rm -r mnt/d*
	[ "$(ls mnt)" = file ]
	umount mnt
}
