/*
 * The floor of `just bench`: only the kernel work that the configuration of `runc spec` on cgroup v2 cannot do without. It parses
 * nothing, checks nothing that it need not, and is no runtime: an error ends it.
 *
 *   floor [--seccomp] STATE run    ID BUNDLE PROGRAM [ARGUMENT...]
 *   floor [--seccomp] STATE create ID BUNDLE PROGRAM [ARGUMENT...]     then: floor STATE start|delete|state ID
 *   floor [--seccomp] STATE exec   ID PROGRAM [ARGUMENT...]
 *
 * And what the benchmark measures the runtimes with, so that no shell is in the figures:
 *
 *   floor sequence COMMAND... --- COMMAND...        one after the other
 *   floor parallel N COMMAND...                     at the same time, each @ replaced by its number
 *   floor rss COMMAND...                            prints the peak RSS, in KiB, of COMMAND and all that it waited for
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMESPACES (CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS)
#define INTO_CGROUP 0x200000000ULL
#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define MUST(call) must((long)(call), #call)

static const char *state_root;
static int with_seccomp;

static long must(long result, const char *call)
{
	if (result < 0) {
		fprintf(stderr, "floor: %s: %s\n", call, strerror(errno));
		_exit(1);
	}
	return result;
}

static const char *path(const char *directory, const char *id, const char *file)
{
	static char paths[4][512];
	static int next;
	char *p = paths[next++ % 4];
	snprintf(p, sizeof paths[0], "%s/%s%s", directory, id, file);
	return p;
}

static void write_file(const char *file, const char *text, size_t length)
{
	int fd = MUST(open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	MUST(write(fd, text, length));
	close(fd);
}

/* ---- state: the pid, written as a runtime must, to a new file that is renamed */

static void save(const char *id, pid_t pid)
{
	char text[32];
	int length = snprintf(text, sizeof text, "%d\n", pid);
	write_file(path(state_root, id, "/state.new"), text, length);
	MUST(rename(path(state_root, id, "/state.new"), path(state_root, id, "/state")));
}

static pid_t load(const char *id)
{
	char text[32] = "";
	int fd = MUST(open(path(state_root, id, "/state"), O_RDONLY | O_CLOEXEC));
	MUST(read(fd, text, sizeof text - 1));
	close(fd);
	return atoi(text);
}

/* ---- the cgroup and its device filter: the default devices, and mknod of any */

#define LOAD(r, field) {BPF_LDX | BPF_MEM | BPF_W, r, BPF_REG_1, offsetof(struct bpf_cgroup_dev_ctx, field), 0}
#define JUMP(op, r, value, skip) {BPF_JMP | op | BPF_K, r, 0, skip, value}
#define SET(r, value) {BPF_ALU64 | BPF_MOV | BPF_K, r, 0, 0, value}
#define LEAVE {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}

static void attach_device_filter(int cgroup)
{
	static struct bpf_insn program[] = {
		LOAD(BPF_REG_2, access_type),
		LOAD(BPF_REG_4, major),
		LOAD(BPF_REG_5, minor),
		{BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_3, BPF_REG_2, 0, 0},
		{BPF_ALU64 | BPF_RSH | BPF_K, BPF_REG_3, 0, 0, 16},
		/* 5 */ JUMP(BPF_JEQ, BPF_REG_3, BPF_DEVCG_ACC_MKNOD, 13),
		{BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff},
		/* 7 */ JUMP(BPF_JNE, BPF_REG_2, BPF_DEVCG_DEV_CHAR, 9),
		/* 8 */ JUMP(BPF_JEQ, BPF_REG_4, 136, 10),
		/* 9 */ JUMP(BPF_JNE, BPF_REG_4, 5, 3),
		/* 10 */ JUMP(BPF_JEQ, BPF_REG_5, 0, 8),
		/* 11 */ JUMP(BPF_JEQ, BPF_REG_5, 2, 7),
		/* 12 */ {BPF_JMP | BPF_JA, 0, 0, 4, 0},
		/* 13 */ JUMP(BPF_JNE, BPF_REG_4, 1, 3),
		/* 14 */ JUMP(BPF_JEQ, BPF_REG_5, 3, 4),
		/* 15 */ JUMP(BPF_JEQ, BPF_REG_5, 5, 3),
		/* 16 */ JUMP(BPF_JGE, BPF_REG_5, 7, 2),
		/* 17 */ SET(BPF_REG_0, 0),
		LEAVE,
		/* 19 */ SET(BPF_REG_0, 1),
		LEAVE,
	};
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE,
		.insns = (uintptr_t)program,
		.insn_cnt = COUNT(program),
		.license = (uintptr_t) "Apache-2.0",
	};
	int fd = MUST(syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load));
	union bpf_attr attach = {
		.target_fd = cgroup,
		.attach_bpf_fd = fd,
		.attach_type = BPF_CGROUP_DEVICE,
		.attach_flags = BPF_F_ALLOW_MULTI,
	};
	MUST(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach));
	close(fd);
}

static pid_t clone_into(int cgroup, uint64_t namespaces)
{
	/* struct clone_args of clone3(2), which the C library's headers do not agree on */
	uint64_t arguments[11] = {[0] = namespaces | INTO_CGROUP, [4] = SIGCHLD, [10] = cgroup};
	return MUST(syscall(SYS_clone3, arguments, sizeof arguments));
}

/* ---- the process: capabilities, and a seccomp filter of the default profile's size */

static void keep_three_capabilities(void)
{
	const uint32_t kept = 1u << CAP_KILL | 1u << CAP_NET_BIND_SERVICE | 1u << CAP_AUDIT_WRITE;
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[2] = {{kept, kept, 0}, {0, 0, 0}};
	for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
		if (capability > 31 || !(kept >> capability & 1))
			MUST(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0));
	MUST(syscall(SYS_capset, &header, sets));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/*
 * Two balanced trees over system call numbers, one per architecture, that allow all: what the default profile costs the kernel
 * to check, translate and keep, when a compiler has done its best with it.
 */
static struct sock_filter filter[BPF_MAXINSNS];
static int length;

static void tree(int from, int to)
{
	if (to - from < 3) {
		filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
		return;
	}
	int middle = (from + to) / 2, here = length++;
	tree(from, middle);
	filter[here] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, middle, length - here - 1, 0);
	tree(middle, to);
}

static void load_seccomp(void)
{
	const struct sock_filter nr = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	filter[length++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0);
	int other = length++;
	filter[length++] = nr;
	tree(0, 280);
	filter[other] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, length - other - 1);
	filter[length++] = nr;
	tree(0, 280);
	struct sock_fprog program = {length, filter};
	MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

static void become(char **program)
{
	static char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL};
	struct rlimit files = {1024, 1024};
	MUST(setrlimit(RLIMIT_NOFILE, &files));
	MUST(syscall(SYS_close_range, 3, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */));
	keep_three_capabilities();
	if (with_seccomp)
		load_seccomp();
	MUST(execve(program[0], program, environment));
}

/* ---- the root */

static void mount_file_systems(void)
{
	const unsigned long quiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;
	MUST(mount("proc", "proc", "proc", 0, NULL));
	MUST(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	MUST(mkdir("dev/pts", 0755));
	MUST(mkdir("dev/shm", 01777));
	MUST(mkdir("dev/mqueue", 0755));
	MUST(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	MUST(mount("shm", "dev/shm", "tmpfs", quiet, "mode=1777,size=65536k"));
	MUST(mount("mqueue", "dev/mqueue", "mqueue", quiet, NULL));
	MUST(mount("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL));
	MUST(mount("cgroup", "sys/fs/cgroup", "cgroup2", quiet | MS_RELATIME, NULL));
	MUST(mount(NULL, "sys/fs/cgroup", NULL, quiet | MS_RELATIME | MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
}

static void make_devices(void)
{
	static const struct { const char *name; int major, minor; } devices[] = {
		{"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7},
		{"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
	};
	static const char *links[][2] = {
		{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
		{"/proc/self/fd/2", "dev/stderr"}, {"/proc/kcore", "dev/core"}, {"pts/ptmx", "dev/ptmx"},
	};
	for (size_t i = 0; i < COUNT(devices); i++)
		MUST(mknod(devices[i].name, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)));
	for (size_t i = 0; i < COUNT(links); i++)
		MUST(symlink(links[i][0], links[i][1]));
}

static void mask_paths(void)
{
	static const char *masked[] = {
		"proc/acpi", "proc/asound", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list",
		"proc/timer_stats", "proc/sched_debug", "sys/firmware", "proc/scsi",
	};
	static const char *readonly[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
	const unsigned long quiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;
	for (size_t i = 0; i < COUNT(masked); i++)
		if (mount("dev/null", masked[i], NULL, MS_BIND, NULL) < 0 && errno == ENOTDIR)
			MUST(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, NULL));
	for (size_t i = 0; i < COUNT(readonly); i++)
		if (mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL) == 0)
			MUST(mount(NULL, readonly[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | quiet, NULL));
}

static void loopback_up(void)
{
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	int fd = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	MUST(ioctl(fd, SIOCSIFFLAGS, &lo));
	close(fd);
}

static void enter_root(const char *bundle)
{
	const char *root = path(bundle, "rootfs", "");
	MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	MUST(mount(root, root, NULL, MS_BIND | MS_REC, NULL));
	MUST(chdir(root));
	mount_file_systems();
	make_devices();
	mask_paths();
	MUST(syscall(SYS_pivot_root, ".", "."));
	MUST(umount2(".", MNT_DETACH));
	MUST(chdir("/"));
	MUST(mount(NULL, "/", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL));
}

static void child(const char *id, const char *bundle, int wait_for_start, char **program)
{
	int fifo = wait_for_start ? MUST(open(path(state_root, id, "/exec.fifo"), O_PATH | O_CLOEXEC)) : -1;
	MUST(unshare(CLONE_NEWCGROUP));
	loopback_up();
	MUST(syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, id));
	enter_root(bundle);
	MUST(sethostname("runc", 4));
	MUST(setsid());
	if (wait_for_start) {
		char link[32];
		snprintf(link, sizeof link, "/proc/self/fd/%d", fifo);
		int fd = MUST(open(link, O_WRONLY | O_CLOEXEC));
		MUST(write(fd, "", 1));
	}
	become(program);
}

/* ---- the commands */

static void read_config(const char *bundle)
{
	static char text[1 << 16];
	int fd = MUST(open(path(bundle, "config.json", ""), O_RDONLY | O_CLOEXEC));
	MUST(read(fd, text, sizeof text));
	close(fd);
}

static pid_t create(const char *id, const char *bundle, int wait_for_start, char **program)
{
	read_config(bundle);
	MUST(mkdir(path(state_root, id, ""), 0700));
	if (wait_for_start)
		MUST(mkfifo(path(state_root, id, "/exec.fifo"), 0600));
	MUST(mkdir(path("/sys/fs/cgroup", id, ""), 0755));
	int cgroup = MUST(open(path("/sys/fs/cgroup", id, ""), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	attach_device_filter(cgroup);
	pid_t pid = clone_into(cgroup, NAMESPACES);
	if (pid == 0)
		child(id, bundle, wait_for_start, program);
	save(id, pid);
	return pid;
}

static void forget(const char *id)
{
	MUST(rmdir(path("/sys/fs/cgroup", id, "")));
	unlink(path(state_root, id, "/exec.fifo"));
	MUST(unlink(path(state_root, id, "/state")));
	MUST(rmdir(path(state_root, id, "")));
}

static int status_of(pid_t pid)
{
	int status;
	MUST(waitpid(pid, &status, 0));
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int delete(const char *id)
{
	char events[64];
	write_file(path("/sys/fs/cgroup", id, "/cgroup.kill"), "1", 1);
	int fd = MUST(open(path("/sys/fs/cgroup", id, "/cgroup.events"), O_RDONLY | O_CLOEXEC));
	for (;;) {
		ssize_t got = MUST(pread(fd, events, sizeof events - 1, 0));
		events[got] = 0;
		if (strstr(events, "populated 0"))
			break;
		usleep(50);
	}
	close(fd);
	forget(id);
	return 0;
}

static int start(const char *id)
{
	char byte;
	int fd = MUST(open(path(state_root, id, "/exec.fifo"), O_RDONLY | O_CLOEXEC));
	MUST(read(fd, &byte, 1));
	MUST(unlink(path(state_root, id, "/exec.fifo")));
	return 0;
}

static int state(const char *id)
{
	char file[64], text[512];
	pid_t pid = load(id);
	snprintf(file, sizeof file, "/proc/%d/stat", pid);
	int fd = MUST(open(file, O_RDONLY | O_CLOEXEC));
	MUST(read(fd, text, sizeof text));
	close(fd);
	printf("{\"id\": \"%s\", \"pid\": %d, \"status\": \"running\"}\n", id, pid);
	return 0;
}

static int exec(const char *id, char **program)
{
	int cgroup = MUST(open(path("/sys/fs/cgroup", id, ""), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	int pidfd = MUST(syscall(SYS_pidfd_open, load(id), 0));
	MUST(setns(pidfd, CLONE_NEWPID));
	pid_t pid = clone_into(cgroup, 0);
	if (pid == 0) {
		MUST(setns(pidfd, CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP));
		MUST(setsid());
		become(program);
	}
	return status_of(pid);
}

/* ---- what the runtimes are measured with */

static pid_t spawn(char **command)
{
	pid_t pid = vfork();
	if (pid == 0) {
		execvp(command[0], command);
		_exit(127);
	}
	return MUST(pid);
}

static int sequence(char **words)
{
	for (char **command = words; *words; command = words) {
		while (*words && strcmp(*words, "---"))
			words++;
		if (*words)
			*words++ = NULL;
		int status = status_of(spawn(command));
		if (status)
			return status;
	}
	return 0;
}

static void replace_at(char *word, int number, char *room, size_t size, char **result)
{
	char *at = strchr(word, '@');
	*result = word;
	if (!at)
		return;
	snprintf(room, size, "%.*s%d%s", (int)(at - word), word, number, at + 1);
	*result = room;
}

static int parallel(int count, char **words)
{
	static char room[64][256];
	int failed = 0;
	for (int number = 0; number < count; number++) {
		char *command[64] = {NULL};
		for (int i = 0; words[i] && i < 63; i++)
			replace_at(words[i], number, room[i], sizeof room[i], &command[i]);
		spawn(command);
	}
	for (int number = 0; number < count; number++)
		failed |= status_of(-1);
	return failed;
}

static int rss(char **command)
{
	struct rusage usage;
	int status = status_of(spawn(command));
	MUST(getrusage(RUSAGE_CHILDREN, &usage));
	printf("%ld\n", usage.ru_maxrss);
	return status;
}

static int container(const char *verb, const char *id, char **rest)
{
	if (!strcmp(verb, "start"))
		return start(id);
	if (!strcmp(verb, "state"))
		return state(id);
	if (!strcmp(verb, "delete"))
		return delete(id);
	if (!strcmp(verb, "exec"))
		return exec(id, rest);
	if (!strcmp(verb, "create"))
		return create(id, rest[0], 1, rest + 1) < 0;
	int status = status_of(create(id, rest[0], 0, rest + 1));
	forget(id);
	return status;
}

int main(int count, char **words)
{
	words++;
	if (count > 1 && !strcmp(*words, "--seccomp"))
		with_seccomp = 1, words++, count--;
	if (count < 3)
		return 2;
	if (!strcmp(words[0], "sequence"))
		return sequence(words + 1);
	if (!strcmp(words[0], "parallel"))
		return parallel(atoi(words[1]), words + 2);
	if (!strcmp(words[0], "rss"))
		return rss(words + 1);
	state_root = words[0];
	return container(words[1], words[2], words + 3);
}
