/* SPDX-License-Identifier: Apache-2.0 */
/* devd's private declarations, by file. */
#ifndef DEVD_DEVD_H
#define DEVD_DEVD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/conf.h"
#include "ipc/ipc.h"
#include "ipc/map.h"
#include "ipc/parent.h"
#include "policy/policy.h"

struct event;
struct event_base;

/* ---- main.c: where things are ---- */

struct places {
	const char *conf;	/* configuration file, may be absent */
	bool conf_named;	/* by -c: it must be there */
	const char *store;	/* store directory */
	const char *run;	/* run directory */
	bool root;		/* system instance, else rootless */
};

/* ---- parent.c ---- */

/* Run the suite; returns its exit status.  conf is taken.  argv: of main(), for
 * another build to begin with. */
int parent_run(const struct places *places, struct conf *conf, int conf_fd,
    char **argv);

/* Remove what a dead instance left in its run directory. */
int parent_remove_devices(const struct places *places);
/* Can this build go on with files whose requests another build keeps as that
 * part (of handover.c)? */
bool parent_device_takes(const char *journal);

/* ---- places.c: directories, sockets and lock files of the parent ---- */

#define SOCKET_PATH_MAX	100	/* sun_path is 104 on macOS; a margin for NUL */
/* The longest thing below the run directory: "/nbd/" + device id + ".sock";
 * "/file/" + device id is shorter. */
#define RUN_PATH_MAX	(SOCKET_PATH_MAX - 5 - DEVICE_ID_LEN - 5)

/* Make the directories; the store's owner is checked.  Logs and ends the
 * process on failure. */
void places_make_run(const struct places *places, gid_t group);
void places_make_store(const struct places *places);
/* Lock `file` in dir, waiting up to wait_s for a dying instance to let go.
 * The descriptor; logs and ends the process when it is held. */
int places_lock(const char *dir, const char *file, int wait_s,
    const char *whose);
/* A listening unix stream socket at path, mode 0600 or 0660 for group.
 * The descriptor, or -errno. */
int places_listen(const char *path, bool for_group, gid_t group);
/* Remove every file in that directory of the run directory. */
void places_empty(const struct places *places, const char *below);
/* Open read-only; -errno. */
int places_open_read(const char *path);

/* ---- mount_linux.c, mount_none.c: devices presented as a file; root's ---- */

/* Can this process make one?  0; -errno, and *remedy is a sentence's rest: what
 * is wrong, and what helps. */
int mount_possible(const char **remedy);
/* Make a file of one FUSE mount at path, which is made if need be.  mark: its
 * source, by which mount_remove() knows it again.  *fd: where its requests are
 * read, non-blocking; the mount works as long as a duplicate of that is open,
 * and does not answer before somebody serves it.  0 or -errno. */
int mount_file(const char *path, const char *mark, int *fd);
/* Take it away, and the file below it.  Whoever has it open keeps it as long as
 * its descriptor is kept.  Never waits for who serves it.  0 or -errno. */
int mount_end(const char *path);
/* Is there one of that mark at path, from the root and without links? */
bool mount_is(const char *mark, const char *path);
/* Take away all mounts of that mark whose files lie in dir, from the root and
 * without links, but those that are wanted (by the name of their file; NULL:
 * none is): how many, or -errno.  Others of that mark, such as bind mounts, are
 * their makers'. */
int mount_remove(const char *mark, const char *dir,
    bool (*wanted)(const char *name));

/* ---- apart.c: work in a process that can be abandoned ---- */

struct apart;
#define APART_FD	4	/* where such a process finds what it keeps */
/* Called there, with no other descriptors than 0 to 2 open.  Its result. */
typedef int apart_work(const void *arg);
typedef void apart_done(void *owner, int result);

/* Run it, with descriptor keep (or -1), and wait: its result, -ETIMEDOUT after
 * ms, -ECHILD without one, -errno of starting it. */
int apart_run(apart_work *work, const void *arg, int keep, int ms);
/* The same without waiting: done() is told, from the event loop.  arg and keep
 * stay the caller's and are not needed any more.  NULL: it can't be started. */
struct apart *apart_start(struct event_base *base, apart_work *work,
    const void *arg, int keep, int ms, apart_done *done, void *owner);
void apart_free(struct apart *apart);	/* kill it; done() is not called */

/* ---- openers_linux.c ---- */

/* Does anybody have this block device (ublkb0) open, mounted or below another?
 * 1, 0; -errno: it can't be told.  Run apart. */
int openers_any(const char *name);

/* ---- ublk_linux.c, ublk_none.c: the kernel's ublk driver; root's ---- */

enum ublk_act {
	UBLK_ACT_PROBE,		/* has it the features we need? */
	UBLK_ACT_MAKE,		/* a device of size, mark: its number */
	UBLK_ACT_START,		/* its worker is ready; node for group */
	UBLK_ACT_RECOVER,	/* its worker died: wait until that was seen;
				 * -ENODEV: it is not of that mark */
	UBLK_ACT_RESUME,	/* the new one is ready */
	UBLK_ACT_REMOVE,	/* also while somebody has it open */
	UBLK_ACT_SWEEP,		/* all of that mark but those in keep: how
				 * many */
};

struct ublk_ask {
	enum ublk_act act;
	uint32_t number;	/* of /dev/ublkbN; not of PROBE, MAKE, SWEEP */
	uint64_t size;		/* bytes, of whole sectors of 512 */
	uint64_t mark;		/* of the instance */
	pid_t opener;		/* who opened the character device */
	gid_t group;
	const uint32_t *keep;	/* numbers, of SWEEP; the caller's */
	size_t n_keep;
};

#define UBLK_PROBE_MS	2000

/* Do it: an apart_work of a struct ublk_ask.  >= 0, or -errno. */
int ublk_act(const void *ask);
/* Its character device, for the worker alone.  The descriptor, or -errno. */
int ublk_open(uint32_t number);
/* Can there be such devices?  0; -errno, and *remedy as of mount_possible().
 * force: on any kernel. */
int ublk_possible(bool force, const char **remedy);

/* ublk_kernel.c: why this kernel (uname -r) is not to be used, with the remedy,
 * or NULL. */
const char *ublk_kernel_refused(const char *release);

/* ---- knbd_linux.c, knbd_none.c: the kernel's own NBD client; root's ---- */

enum knbd_act {
	KNBD_ACT_PROBE,		/* is it there? */
	KNBD_ACT_CONNECT,	/* a device of size for group: its number */
	KNBD_ACT_RESUME,	/* another connection, whose one has ended */
	KNBD_ACT_REMOVE,	/* all whose identifiers begin like that, also
				 * while somebody has one open: how many */
};

/* "shedstream:", the instance's mark, ":", the device's id, NUL. */
#define KNBD_IDENTIFIER_SIZE	(11 + 16 + 1 + DEVICE_ID_LEN + 1)

/* CONNECT and RESUME keep the kernel's end of a connection. */
struct knbd_ask {
	enum knbd_act act;
	uint32_t number;	/* of /dev/nbdN, of RESUME */
	uint64_t size;		/* bytes, of whole sectors of 512 */
	gid_t group;
	char identifier[KNBD_IDENTIFIER_SIZE];
	const uint32_t *keep;	/* numbers, but of REMOVE; the caller's */
	size_t n_keep;
};

#define KNBD_PROBE_MS	2000
/* What a dead worker had not answered is asked of its successor so long after
 * it was first asked, at the latest; and so often the kernel's log tells of a
 * request that waits. */
#define KNBD_RETRY_MS	5000

/* Do it: an apart_work of a struct knbd_ask.  >= 0, or -errno. */
int knbd_act(const void *ask);
/* Can there be such devices?  0; -errno, and *remedy as of mount_possible(). */
int knbd_possible(const char **remedy);

/* knbd_name.c.  id "": what all of that instance's begin with. */
void knbd_identifier(uint64_t mark, const char *id,
    char out[KNBD_IDENTIFIER_SIZE]);
/* Why this kernel (uname -r) won't do, with the remedy, or NULL. */
const char *knbd_kernel_refused(const char *release);

/* ---- spawn.c: processes ---- */

struct child {
	enum ipc_peer peer;
	const char *program;
	const char *argument;	/* or NULL */
	pid_t pid;		/* 0: none */
	struct parent_link *link;
	bool ready;
	uint32_t restarts;
	char why[128];		/* how the last one ended */
	double deaths[2];	/* monotonic seconds, latest first */
	uint32_t backoff_ms;
	struct event *again;	/* restart timer */
	void *device;		/* of a worker */
};

/* Start child's program with one end of a socketpair as CHILD_FD.  Its link is
 * made with ops and owner = child.  0 or -errno. */
int spawn_child(struct child *child, struct event_base *base,
    const struct parent_ops *ops);
/* It ended: record why, and when it may be started again (ms from now). */
uint32_t spawn_ended(struct child *child, int status);
/* Find our own programs' directory; ends the process on failure. */
void spawn_init(void);
/* Where devd is installed: after an update, another build. */
const char *spawn_self(void);

/* ---- credentials.c: what clients gave for registries; the parent's ---- */

#define HOST_TEXT_MAX	255	/* of the text of a struct parent_msg */

struct credentials {
	char host[HOST_TEXT_MAX + 1];
	int fd;			/* a sealed memfd that nobody here reads */
	int host_fd;		/* one of the host's name, or < 0 */
	bool fresh;		/* no fetcherd knows them yet */
};

/* Hold them for host instead of those held before; fd stays the caller's.
 * 1: held; 0: it is empty, and none are held now.  -EPROTO, -EFBIG: fd is no
 * such memfd; -EINVAL: no host; -ENOSPC: of too many hosts. */
int credentials_set(const char *host, int fd, bool fresh);
/* One after the other; NULL: that was the last. */
const struct credentials *credentials_at(size_t i);
void credentials_known(void);	/* fetcherd has them all */
void credentials_restore(void);	/* of an earlier life of this process */

/* ---- control.c ---- */

/* The control process; does not return. */
void control_run(void) __attribute__((noreturn));
void control_print_tables(void);
/* policy_try() under the control process's policy. */
void control_try(const char *act, const char *object)
    __attribute__((noreturn));

/* ---- names.c: pure ---- */

/* Key of a device as 16 hex digits: SHA-256 over erofs digest, chain root
 * (the image manifest's digest), layout, rung and presentation. */
void device_id(const struct digest *blob, const struct digest *image,
    const struct digest *layout, uint32_t rung, uint32_t present,
    char id[DEVICE_ID_LEN + 1]);
/* [a-z0-9._-]{1,63}, not starting with a dot. */
bool device_name_valid(const char *name);
const char *rung_name(uint32_t rung);
const char *present_name(uint32_t present);
/* 1 to 512 printable bytes without blanks: an image's name, as far as control
 * looks at it. */
bool image_text_valid(const char *text);
/* HOST[:PORT]: 1 to HOST_TEXT_MAX of the bytes that such names are made of. */
bool host_text_valid(const char *text);
/* 1 to 255 printable bytes; shed's is a path. */
bool owner_valid(const char *text);
/* A path below the store: 1 to 255 printable bytes without blanks, not from the
 * root, and not upwards. */
bool data_text_valid(const char *text);
/* Printable ASCII without '/', 1..max bytes: consumer ids. */
bool consumer_valid(const char *text, size_t max);

/* ---- spec.c: a device, written down ---- */

/* Fill the item's part of that; its pointers lead into spec. */
void spec_to_item(const struct device_spec *spec,
    Suite__Attachments__Item *item);
/* 0, or -EINVAL.  Its id is computed; sizes are not judged. */
int spec_from_item(const Suite__Attachments__Item *item,
    struct device_spec *spec);

/* ---- record.c: the parent's records of devices ---- */

#define RECORDS		"devices"	/* in the run directory */

int record_open(const char *run);	/* first; 0 or -errno */
/* number: of a block device, or 0.  0 or -errno. */
int record_write(const struct device_spec *spec, uint32_t number);
void record_remove(const char *id);	/* nothing, if there is none */
/* All there are; one that is not wanted is removed, and what is no record. */
void record_each(bool (*found)(const struct device_spec *spec,
    uint32_t number));

/* ---- handover.c: descriptors that outlive the parent ---- */

#define HANDOVER_PARTS	4	/* of one device, at most */
#define HANDOVER_MORE	128	/* for credentials */
#define HANDOVER_PART_MAX 8	/* bytes of a part's name: letters, digits */

/* Take what was handed to this process: before it opens anything. */
void handover_init(void);
/* That part of what an earlier life kept; the caller's, and kept on.  -1: there
 * is none. */
int handover_take(const char *key, const char *part);
/* Is there such a part that nobody took yet?  key: whose. */
bool handover_next(const char *part, char key[DEVICE_ID_LEN + 1]);
void handover_rest(void);	/* close what nobody took */
/* Keep it for the next life, until the drop of its key (a device's id); once is
 * enough.  fd stays the caller's, and open until then. */
void handover_keep(const char *key, const char *part, int fd);
void handover_drop(const char *key);
/* Does it also outlive the end of this process, by crash or SIGTERM? */
bool handover_lasts(void);
/* To the service manager, as of sd_notify(3); nothing without one. */
void handover_tell(const char *state);
/* Become that program, with all that is kept.  Returns only -errno, and then
 * nothing has happened. */
int handover_exec(const char *program, char **argv);

/* ---- attachments.c ---- */

/* The attachments file pair: the newer valid one is the state; a change goes
 * to the other.  Any crash leaves one of them whole. */
struct attachments {
	int fd[2];
	uint64_t generation;
	int current;
};

/* The state as bytes (caller frees), NULL and 0 where there is none yet.
 * 0 or -errno. */
int attachments_read(struct attachments *a, uint8_t **state, size_t *len);
int attachments_write(struct attachments *a, const void *state, size_t len);

#endif
