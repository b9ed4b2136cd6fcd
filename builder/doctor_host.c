/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of the machine and of what surrounds the user. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "builder/doctor_check.h"
#include "formats/base/io.h"

void probe_kernel(const struct doctor *doctor, struct doctor_check *check)
{
	struct utsname host;

	(void)doctor;
	if (uname(&host) < 0)
		found(check, DOCTOR_FAIL, "unknown", "uname: %s", strerror(errno));
	else
		found(check, DOCTOR_OK, host.release, "%s", host.machine);
}

void probe_privileges(const struct doctor *doctor, struct doctor_check *check)
{
	const bool admin = sandbox_has_admin(), fixed = process_status("NoNewPrivs", 0);
	const bool filtered = process_status("Seccomp", 0) == 2;
	auto_buf struct buf profile = BUF_INIT(256);
	const bool confined = read_text("/proc/self/attr/current", &profile) && profile.len &&
			      !str_is(buf_str(&profile), "unconfined");
	char value[64];

	(void)doctor;
	snprintf(value, sizeof(value), "uid %u", geteuid());
	found(check, DOCTOR_OK, value, "%s%s%s%s%s",
	      admin	       ? "CAP_SYS_ADMIN"
	      : geteuid() == 0 ? "no CAP_SYS_ADMIN: mica does as for a user"
			       : "an ordinary user",
	      filtered ? "; a system call filter is in force" : "",
	      fixed ? "; no_new_privs is set" : "", confined ? "; security profile " : "",
	      confined ? profile.data : "");
	if (fixed && !admin) {
		check->status = DOCTOR_WARN;
		fix(check, "start mica without no_new_privs, so that newuidmap can work");
	}
}

/* --- cgroups --- */

enum { CGROUP2_MAGIC = 0x63677270 };

/* The line of hierarchy 0 in /proc/self/cgroup, "0::PATH". */
static struct str own_group(const struct buf *text)
{
	struct str rest = buf_str(text), line;

	while (rest.len) {
		str_cut(rest, '\n', &line, &rest);
		if (str_starts(line, "0::"))
			return str_from_index(line, 3);
	}
	return STR("");
}

static void judge_version_2(struct str own, struct doctor_check *check)
{
	auto_buf struct buf controllers = BUF_INIT(4096);
	char path[PATH_MAX];
	bool delegated;

	snprintf(path, sizeof(path), "/sys/fs/cgroup%.*s/cgroup.procs", (int)own.len, own.ptr);
	delegated = access(path, W_OK) == 0;
	snprintf(path, sizeof(path), "/sys/fs/cgroup%.*s/cgroup.controllers", (int)own.len,
		 own.ptr);
	if (!read_text(path, &controllers) || !controllers.len) {
		found(check, DOCTOR_WARN, "v2", "%s", "no controllers: no limit can be enforced");
		fix(check, "mkdir -p /etc/systemd/system/user@.service.d && printf "
			   "'[Service]\\nDelegate=yes\\n' "
			   ">/etc/systemd/system/user@.service.d/delegate.conf # as root, then log "
			   "in again");
	} else if (!delegated) {
		found(check, DOCTOR_WARN, "v2", "%s",
		      "not delegated to us: no limit can be enforced");
		fix(check, "systemd-run --user --scope -p Delegate=yes mica ...");
	} else {
		found(check, DOCTOR_OK, "v2", "delegated: %s", controllers.data);
	}
}

/* Controllers of version 1 whose own directory we may write to, or those we may not. */
static void list_version_1(const struct buf *text, bool writable, struct buf *names)
{
	struct str rest = buf_str(text), line, word, own;

	while (rest.len) {
		char path[PATH_MAX];

		str_cut(rest, '\n', &line, &rest);
		if (!str_cut(line, ':', &word, &line) || !str_cut(line, ':', &word, &own) ||
		    !word.len || str_has(word, '='))
			continue;
		snprintf(path, sizeof(path), "/sys/fs/cgroup/%.*s%.*s/cgroup.procs", (int)word.len,
			 word.ptr, (int)own.len, own.ptr);
		if ((access(path, W_OK) == 0) == writable)
			buf_printf(names, " %.*s", (int)word.len, word.ptr);
	}
}

void probe_cgroups(const struct doctor *doctor, struct doctor_check *check)
{
	auto_buf struct buf text = BUF_INIT(64 << 10), usable = BUF_INIT(512),
			    others = BUF_INIT(512);
	struct statfs fs;

	(void)doctor;
	if (!read_text("/proc/self/cgroup", &text) || statfs("/sys/fs/cgroup", &fs) < 0) {
		found(check, DOCTOR_WARN, "absent", "%s", "no limit can be enforced");
		fix(check, "mount -t cgroup2 none /sys/fs/cgroup # as root");
		return;
	}
	if (fs.f_type == CGROUP2_MAGIC) {
		judge_version_2(own_group(&text), check);
		return;
	}
	list_version_1(&text, true, &usable);
	list_version_1(&text, false, &others);
	if (usable.len)
		found(check, DOCTOR_OK, own_group(&text).len ? "hybrid" : "v1", "ours:%s",
		      usable.data);
	else
		found(check, DOCTOR_WARN, own_group(&text).len ? "hybrid" : "v1",
		      "not delegated to us: no limit can be enforced%s%s",
		      others.len ? "; there are:" : "", others.len ? others.data : "");
	if (!usable.len)
		fix(check,
		    "run as root, or boot with cgroup v2: systemd.unified_cgroup_hierarchy=1");
}

/* --- Programs and devices --- */

void probe_network_tools(const struct doctor *doctor, struct doctor_check *check)
{
	auto_free char *pasta = find_program("pasta"), *slirp = find_program("slirp4netns");

	(void)doctor;
	if (pasta || slirp) {
		found(check, DOCTOR_OK, pasta ? "pasta" : "slirp4netns", "%s",
		      pasta ? pasta : slirp);
		return;
	}
	found(check, DOCTOR_WARN, "missing", "%s",
	      "neither pasta nor slirp4netns: a container has the host's network or none");
	fix(check, "apt-get install passt # as root");
}

void probe_kvm(const struct doctor *doctor, struct doctor_check *check)
{
	auto_close int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	(void)doctor;
	if (fd >= 0) {
		found(check, DOCTOR_OK, "usable", "%s", "");
	} else if (errno == ENOENT) {
		found(check, DOCTOR_OK, "missing", "%s",
		      "no virtual machines; nothing else needs it");
	} else {
		found(check, DOCTOR_OK, "closed", "%s: no virtual machines; nothing else needs it",
		      strerror(errno));
	}
}

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U /* Linux 6.3 */
#endif

void probe_memory_files(const struct doctor *doctor, struct doctor_check *check)
{
	auto_buf struct buf text = BUF_INIT(64);
	auto_close int fd = memfd_create("mica-doctor", MFD_CLOEXEC | MFD_EXEC);
	const char *set = read_text("/proc/sys/vm/memfd_noexec", &text) ? text.data : NULL;

	(void)doctor;
	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 every one could be executed */
		fd = memfd_create("mica-doctor", MFD_CLOEXEC);
	if (fd >= 0) {
		found(check, DOCTOR_OK, "executable", "%s%s", set ? "vm.memfd_noexec=" : "",
		      set ? set : "");
		return;
	}
	found(check, DOCTOR_FAIL, "refused", "%s%s%s", strerror(errno),
	      set ? ": vm.memfd_noexec=" : "", set ? set : "");
	fix(check, "sysctl -w vm.memfd_noexec=1 # as root");
}

/* Emulators that the kernel starts by itself; only those of flag F work in a root filesystem that lacks them. */
void probe_foreign(const struct doctor *doctor, struct doctor_check *check)
{
	auto_closedir DIR *dir = opendir("/proc/sys/fs/binfmt_misc");
	auto_buf struct buf names = BUF_INIT(512), text = BUF_INIT(4096);
	struct dirent *entry;

	(void)doctor;
	while (dir && (entry = readdir(dir))) {
		char path[PATH_MAX];
		const char *flags;

		snprintf(path, sizeof(path), "/proc/sys/fs/binfmt_misc/%s", entry->d_name);
		if (strncmp(entry->d_name, "qemu-", 5) != 0 || !read_text(path, &text) ||
		    !str_starts(buf_str(&text), "enabled"))
			continue;
		flags = strstr(text.data, "flags: ");
		if (flags && memchr(flags, 'F', strcspn(flags, "\n")))
			buf_printf(&names, " %s", entry->d_name + 5);
	}
	if (names.len) {
		found(check, DOCTOR_OK, "emulated", "%s", names.data + 1);
		return;
	}
	found(check, DOCTOR_WARN, "none", "%s",
	      "no emulator in binfmt_misc: RUN works for this machine's architecture alone");
	fix(check, "apt-get install qemu-user-static binfmt-support # as root");
}

/* --- The user's files --- */

static const char *credentials_path(char *path, size_t size, const char *variable,
				    const char *below_home, const char *file)
{
	const char *value = getenv(variable), *home = getenv("HOME");

	if (value && *value)
		snprintf(path, size, "%s%s", value, file);
	else if (below_home && home && *home)
		snprintf(path, size, "%s%s%s", home, below_home, file);
	else
		return NULL;
	return path;
}

/* Where credentials are looked for (registry-client/credentials.c). */
void probe_credentials(const struct doctor *doctor, struct doctor_check *check)
{
	static const struct {
		const char *variable, *below_home, *file;
	} places[] = {
		{ "REGISTRY_AUTH_FILE", NULL, "" },
		{ "XDG_RUNTIME_DIR", NULL, "/containers/auth.json" },
		{ "XDG_CONFIG_HOME", "/.config", "/containers/auth.json" },
		{ "DOCKER_CONFIG", "/.docker", "/config.json" },
		{ "HOME", NULL, "/.dockercfg" },
	};
	char path[PATH_MAX];
	unsigned count = 0;
	struct stat st;
	size_t i;

	(void)doctor;
	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		if (!credentials_path(path, sizeof(path), places[i].variable, places[i].below_home,
				      places[i].file) ||
		    stat(path, &st) < 0)
			continue;
		count++;
		if (!(st.st_mode & 077))
			continue;
		found(check, DOCTOR_WARN, "exposed", "'%.400s' has mode %04o", path,
		      st.st_mode & 07777);
		fix(check, "chmod 600 '%.400s'", path);
		return;
	}
	if (count)
		found(check, DOCTOR_OK, "private", "%u file%s", count, count == 1 ? "" : "s");
	else
		found(check, DOCTOR_OK, "none", "%s", "");
}

/* Before 2020 no certificate of today is valid, and images would be older than their base. */
void probe_clock(const struct doctor *doctor, struct doctor_check *check)
{
	const time_t start_of_2020 = 1577836800;
	time_t now = time(NULL);
	char value[32];
	struct tm day;

	(void)doctor;
	if (!gmtime_r(&now, &day) || !strftime(value, sizeof(value), "%Y-%m-%d", &day))
		snprintf(value, sizeof(value), "%lld", (long long)now);
	if (now >= start_of_2020) {
		found(check, DOCTOR_OK, value, "%s", "");
		return;
	}
	found(check, DOCTOR_FAIL, value, "%s",
	      "before 2020: registries' certificates are not valid yet");
	fix(check, "timedatectl set-ntp true # as root");
}
