// SPDX-License-Identifier: Apache-2.0
/*
 * devd: the command line, the configuration and where things are.  Then it
 * becomes the parent (parent.c); started by a parent with --control it becomes
 * the control process (control.c).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/own.h"
#include "base/shm.h"
#include "devd/devd.h"

#define SYSTEM_CONF	"/etc/shedstream/shedstream.conf"
#define SYSTEM_STORE	"/var/lib/shedstream"
#define SYSTEM_RUN	"/run/shedstream"

static const char usage[] =
    "usage: devd -f [-c FILE] [--store DIR] [--run DIR]\n"
    "       devd -n [-c FILE]\n"
    "       devd --remove-devices [--run DIR]\n"
    "  -f                run the suite in the foreground\n"
    "  -n                check the configuration and exit\n"
    "  -c FILE           configuration file\n"
    "  --store DIR       where chunks are kept\n"
    "  --run DIR         where sockets are\n"
    "  --remove-devices  remove what a dead instance left\n"
    "  --version\n";

enum { OPT_STORE = 256, OPT_RUN, OPT_REMOVE, OPT_CONTROL, OPT_VERSION,
    OPT_MESSAGES, OPT_TAKES };

struct options {
	struct places places;
	bool foreground, check, remove;
};

static const char *
join(const char *dir, const char *rest)
{
	char *path;

	if (asprintf(&path, "%s%s", dir, rest) < 0)
		log_die("no memory");
	return path;
}

/* $NAME, or $HOME + rest. */
static const char *
user_dir(const char *name, const char *rest)
{
	const char *dir = getenv(name);

	if (dir && dir[0] == '/')
		return dir;
	dir = getenv("HOME");
	if (!rest || !dir || dir[0] != '/')
		log_die("$%s is not set to a directory; set it, or give "
		    "--store, --run and -c", name);
	return join(dir, rest);
}

static void
conf_default_place(struct places *p)
{
	p->root = geteuid() == 0;
	if (p->conf)
		return;
	p->conf = p->root ? SYSTEM_CONF :
	    join(user_dir("XDG_CONFIG_HOME", "/.config"),
	    "/shedstream/shedstream.conf");
}

static void
run_default(struct places *p)
{
	if (p->run)
		return;
	p->run = p->root ? SYSTEM_RUN :
	    join(user_dir("XDG_RUNTIME_DIR", NULL), "/shedstream");
}

static void
store_default(struct places *p, const struct conf *conf)
{
	if (p->store)
		return;
	if (conf->store_path)
		p->store = conf->store_path;
	else if (p->root)
		p->store = SYSTEM_STORE;
	else
		p->store = join(user_dir("XDG_DATA_HOME", "/.local/share"),
		    "/shedstream");
}

/* The checked configuration, and the same bytes for the children. */
static struct conf *
load_conf(const char *path, bool must_exist, int *memfd)
{
	_cleanup_free_ char *text = NULL, *error = NULL;
	_cleanup_close_ int fd = places_open_read(path);
	struct conf *conf;
	size_t len = 0;
	int r;

	if (fd >= 0) {
		r = fd_read_text(fd, CONF_FILE_MAX, &text, &len);
		if (r < 0)
			log_die("read %s: %s", path, strerror(-r));
	} else if (fd != -ENOENT || must_exist)
		log_die("open %s: %s", path, strerror(-fd));
	if (text && strlen(text) != len)
		log_die("%s holds a NUL byte; it is to be text", path);
	r = conf_parse(path, text ? text : "", &conf, &error);
	if (r < 0)
		log_die("%s", error ? error : strerror(-r));
	*memfd = shm_sealed("shedstream-conf", text ? text : "", len);
	if (*memfd < 0)
		log_die("keep the configuration: %s", strerror(-*memfd));
	return conf;
}

static void
check_users(const struct places *places)
{
	static const char *const users[] = { "_shed", "_sheddev",
		"_shedcache", "_shedfetch" };
	uid_t uid;
	gid_t gid;

	if (!places->root) {
		log_info("started by an ordinary user: devices are nbd and "
		    "plain");
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(users); i++)
		if (policy_user(users[i], &uid, &gid) < 0)
			log_die("user %s is missing; make the users with: "
			    "systemd-sysusers systemd/shedstream.sysusers",
			    users[i]);
}

static void
parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{ "store", required_argument, NULL, OPT_STORE },
		{ "run", required_argument, NULL, OPT_RUN },
		{ "remove-devices", no_argument, NULL, OPT_REMOVE },
		{ "control", no_argument, NULL, OPT_CONTROL },
		{ "messages", no_argument, NULL, OPT_MESSAGES },
		{ "takes", required_argument, NULL, OPT_TAKES },
		{ "version", no_argument, NULL, OPT_VERSION },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "fnc:h", longs, NULL)) != -1) {
		switch (c) {
		case 'f':
			o->foreground = true;
			break;
		case 'n':
			o->check = true;
			break;
		case 'c':
			o->places.conf = optarg;
			break;
		case OPT_STORE:
			o->places.store = optarg;
			break;
		case OPT_RUN:
			o->places.run = optarg;
			break;
		case OPT_REMOVE:
			o->remove = true;
			break;
		case OPT_CONTROL:
			control_run();
		case OPT_MESSAGES:
			control_print_tables();
			exit(0);
		case OPT_TAKES:	/* asked by another build, before its reload */
			if (!parent_device_takes(optarg))
				log_die("this build can't go on with files "
				    "whose requests are kept as %s", optarg);
			break;
		case OPT_VERSION:
			printf("devd %s\n", VERSION);
			exit(0);
		case 'h':
			fputs(usage, stdout);
			exit(0);
		default:
			fputs(usage, stderr);
			exit(2);
		}
	}
	if (optind != argc || o->foreground + o->check + o->remove != 1) {
		fputs(usage, stderr);
		exit(2);
	}
}

int
main(int argc, char **argv)
{
	struct options o = { 0 };
	struct conf *conf;
	bool named;
	int memfd;

	log_init("devd");
	handover_init();
	if (argc == 4 && strcmp(argv[1], "--try") == 0) {
		policy_parent();
		policy_try(argv[2], argv[3]);
	}
	if (argc == 5 && strcmp(argv[1], "--control") == 0 &&
	    strcmp(argv[2], "--try") == 0)
		control_try(argv[3], argv[4]);
	parse_options(argc, argv, &o);
	named = o.places.conf_named = o.places.conf != NULL;
	conf_default_place(&o.places);
	conf = load_conf(o.places.conf, named, &memfd);
	if (o.check) {
		printf("%s: no errors\n", o.places.conf);
		return 0;
	}
	run_default(&o.places);
	store_default(&o.places, conf);
	if (o.remove)
		return parent_remove_devices(&o.places);
	check_users(&o.places);
	return parent_run(&o.places, conf, memfd, argv);
}
