// SPDX-License-Identifier: Apache-2.0
/*
 * Answers for people.  What comes from the service may have come from a
 * registry: every text goes through show_text(), so that it can neither move
 * the cursor nor forge a line.  Scripts use --json (json.c) instead.
 */
#define _GNU_SOURCE
#include <sys/ioctl.h>

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>
#include <wctype.h>

#include "base/own.h"
#include "shedctl/shedctl.h"

#define COLUMNS_MAX	8	/* of a table */
#define GAP		2	/* between two columns */
#define SHORT_DIGEST	12	/* hex digits; tells a host's images apart */
#define KEY_WIDTH	16	/* of "key  value" lines */
#define OWNERS_WIDTH	16	/* of them on a terminal */

/* Numbers. */

struct size_text
show_size(uint64_t bytes)
{
	static const char units[] = "KMGTPE";
	struct size_text t;
	double v = (double)bytes;
	int unit = -1;

	while (v >= 1023.95 && unit < 5) {	/* it would show as 1024.0 */
		v /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(t.text, sizeof(t.text), "%u B", (unsigned)bytes);
	else
		snprintf(t.text, sizeof(t.text), "%.1f %ciB", v, units[unit]);
	return t;
}

struct size_text
show_percent(uint64_t part, uint64_t total)
{
	struct size_text t = { "-" };
	unsigned percent;

	if (total == 0)
		return t;
	percent = part >= total ? 100 :
	    (unsigned)((double)part * 100 / (double)total);
	if (percent == 100 && part < total)
		percent = 99;
	snprintf(t.text, sizeof(t.text), "%u%%", percent);
	return t;
}

struct size_text
show_seconds(double seconds)
{
	struct size_text t = { "-:--" };
	unsigned s;

	if (!(seconds >= 0))
		return t;
	if (seconds >= 100 * 3600) {
		snprintf(t.text, sizeof(t.text), "%.0f d",
		    seconds < 1e9 ? seconds / 86400 : 9999);
		return t;
	}
	s = (unsigned)(seconds + 0.5);
	if (s >= 3600)
		snprintf(t.text, sizeof(t.text), "%u:%02u:%02u", s / 3600,
		    s / 60 % 60, s % 60);
	else
		snprintf(t.text, sizeof(t.text), "%u:%02u", s / 60, s % 60);
	return t;
}

/* Text. */

static void *
must(void *p)
{
	if (!p) {
		fputs("shedctl: INTERNAL: shedctl has no memory left; free "
		    "some\n", stderr);
		exit(STATUS_FAILED);
	}
	return p;
}

char *
show_text(const char *text, const char *keep)
{
	size_t left = strlen(text);
	char *out = must(malloc(4 * left + 1)), *to = out;
	mbstate_t state = { 0 };

	while (left > 0) {
		wchar_t wide;
		size_t n = mbrtowc(&wide, text, left, &state);
		bool plain = n != 0 && n <= left && (iswprint((wint_t)wide) ||
		    strchr(keep, text[0]));

		if (n == 0 || n > left) {	/* no character of the locale */
			memset(&state, 0, sizeof(state));
			n = 1;
		}
		if (plain) {
			memcpy(to, text, n);
			to += n;
		} else
			for (size_t i = 0; i < n; i++)
				to += sprintf(to, "\\x%02x", (uint8_t)text[i]);
		text += n;
		left -= n;
	}
	*to = '\0';
	return out;
}

unsigned
show_width(int fd)
{
	struct winsize w;

	if (!isatty(fd))
		return 0;
	return ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

__attribute__((format(printf, 1, 2))) static char *
format(const char *fmt, ...)
{
	va_list args;
	char *text;
	int n;

	va_start(args, fmt);
	n = vasprintf(&text, fmt, args);
	va_end(args);
	return must(n < 0 ? NULL : text);
}

/* The first hex digits of "sha256:HEX". */
static char *
short_digest(const char *digest)
{
	const char *colon = strchr(digest, ':');
	_cleanup_free_ char *text = show_text(colon ? colon + 1 : digest, "");

	return format("%.*s", SHORT_DIGEST, text[0] ? text : "-");
}

static char *
size_cell(uint64_t bytes)
{
	return format("%s", show_size(bytes).text);
}

/* "-" where there is no text: a column is never empty. */
static char *
text_cell(const char *text)
{
	return text[0] ? show_text(text, "") : format("-");
}

/* Several texts as one; the caller frees. */
static char *
joined(char **texts, size_t n)
{
	char *out = format("%s", "");

	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *before = out;
		_cleanup_free_ char *text = show_text(texts[i], "");

		out = format("%s%s%s", before, i > 0 ? " " : "", text);
	}
	return out;
}

/* Columns: as wide as their content, numbers to the right.  On a terminal the
 * last column ends where the line does; into a pipe everything goes. */

struct table {
	const char *const *heads;	/* '>' in front: to the right */
	size_t columns, cells;
	char **cell;			/* row by row, owned */
};

static void
table_add(struct table *t, char *cell)
{
	t->cell = must(realloc(t->cell, (t->cells + 1) * sizeof(*t->cell)));
	t->cell[t->cells++] = cell;
}

static const char *
table_head(const struct table *t, size_t column)
{
	return t->heads[column] + (t->heads[column][0] == '>');
}

static void
table_row(const struct table *t, size_t row, const size_t *width,
    size_t screen)
{
	size_t used = 0;

	for (size_t i = 0; i < t->columns; i++) {
		const char *text = row == 0 ? table_head(t, i) :
		    t->cell[(row - 1) * t->columns + i];
		int w = (int)width[i], cut = -1;

		if (i + 1 == t->columns) {
			w = 0;
			if (screen > used + 8)
				cut = (int)(screen - used);
		}
		if (t->heads[i][0] == '>')
			printf("%*s", w, text);
		else
			printf("%-*.*s", w, cut, text);
		used += width[i] + GAP;
		if (i + 1 < t->columns)
			printf("%*s", GAP, "");
	}
	putchar('\n');
}

/* Prints the table and frees its cells. */
static void
table_show(struct table *t)
{
	size_t width[COLUMNS_MAX] = { 0 };

	for (size_t i = 0; i < t->columns; i++)
		width[i] = strlen(table_head(t, i));
	for (size_t i = 0; i < t->cells; i++)
		if (strlen(t->cell[i]) > width[i % t->columns])
			width[i % t->columns] = strlen(t->cell[i]);
	for (size_t row = 0; row <= t->cells / t->columns; row++)
		table_row(t, row, width, show_width(STDOUT_FILENO));
	for (size_t i = 0; i < t->cells; i++)
		free(t->cell[i]);
	free(t->cell);
}

/* The answers. */

/* An index that only refers to its image proves nothing until all is here. */
static char *
rung_cell(const CTL(Device) *d)
{
	return format("%s%s", word_name(rung_words, d->rung),
	    d->unproven ? " (unproven)" : "");
}

void
show_devices(const struct answer *a)
{
	static const char *const heads[] = { "NAME", "STATE", "AS", "RUNG",
		">SIZE", ">HERE", ">USERS", "IMAGE" };
	struct table t = { .heads = heads, .columns = ARRAY_LEN(heads) };

	for (size_t i = 0; i < a->n; i++) {
		const CTL(Devices) *part = a->parts[i].frame->devices;

		for (size_t k = 0; k < part->n_devices; k++) {
			const CTL(Device) *d = part->devices[k];

			table_add(&t, text_cell(d->name));
			table_add(&t, format("%s", word_name(state_words,
			    d->state)));
			table_add(&t, format("%s", word_name(present_words,
			    d->present)));
			table_add(&t, rung_cell(d));
			table_add(&t, size_cell(d->size));
			table_add(&t, format("%s", show_percent(
			    d->chunks_present, d->chunks_total).text));
			table_add(&t, format("%zu", d->n_consumers));
			table_add(&t, text_cell(d->image));
		}
	}
	table_show(&t);
}

/* One "key  value" line; takes the value. */
static void
line(const char *key, char *value)
{
	printf("%-*s%s\n", KEY_WIDTH, key, value[0] ? value : "-");
	free(value);
}

/* As the service's log writes times, but for the milliseconds. */
static struct size_text
utc_seconds(uint64_t since_1970)
{
	time_t seconds = (time_t)since_1970;
	struct size_text t = { "?" };
	struct tm utc;

	if (gmtime_r(&seconds, &utc))
		strftime(t.text, sizeof(t.text), "%Y-%m-%dT%H:%M:%SZ", &utc);
	return t;
}

static void
show_counts(const CTL(Device) *d)
{
	struct size_text present = show_size(d->bytes_present);
	struct size_text fetched = show_size(d->bytes_fetched);
	struct size_text served = show_size(d->bytes_served);

	line("chunks", format("%ju of %ju present (%s)",
	    (uintmax_t)d->chunks_present, (uintmax_t)d->chunks_total,
	    show_percent(d->chunks_present, d->chunks_total).text));
	if (d->chunks_shared > 0)
		line("shared chunks", format("%ju, in other images' files",
		    (uintmax_t)d->chunks_shared));
	if (d->chunks_damaged > 0)
		line("damaged chunks", format("%ju, dropped and fetched again",
		    (uintmax_t)d->chunks_damaged));
	line("bytes", format("%s present, %s fetched, %s served",
	    present.text, fetched.text, served.text));
	line("requests", format("%ju sent, %ju retried, %ju failed",
	    (uintmax_t)d->requests_sent, (uintmax_t)d->requests_retried,
	    (uintmax_t)d->requests_failed));
	line("reads", format("%ju hot, %ju cold", (uintmax_t)d->reads_hot,
	    (uintmax_t)d->reads_cold));
	line("prefetch", format("%ju chunks, %ju used",
	    (uintmax_t)d->prefetch_chunks, (uintmax_t)d->prefetch_used));
	line("stalled reads", d->stalled_since == 0 ?
	    format("%ju", (uintmax_t)d->stalled_reads) :
	    format("%ju, since %s", (uintmax_t)d->stalled_reads,
	    utc_seconds(d->stalled_since).text));
	if (d->reads_eio > 0)
		line("reads with EIO", format("%ju", (uintmax_t)d->reads_eio));
}

static void
show_device(const CTL(Device) *d)
{
	line("name", show_text(d->name, ""));
	if (d->n_aliases > 0)
		line("aliases", joined(d->aliases, d->n_aliases));
	line("image", show_text(d->image, ""));
	line("image digest", show_text(d->image_digest, ""));
	line("digest", show_text(d->digest, ""));
	line("size", format("%s (%ju bytes)", show_size(d->size).text,
	    (uintmax_t)d->size));
	line("path", show_text(d->path, ""));
	line("presented as", format("%s", word_name(present_words,
	    d->present)));
	line("state", format("%s", word_name(state_words, d->state)));
	line("rung", rung_cell(d));
	if (d->on_outage == SHEDSTREAM__CONTROL__V1__ON_OUTAGE__OUTAGE_EIO)
		line("on outage", format("eio after %u s", d->outage_delay_s));
	else
		line("on outage", format("%s", word_name(outage_words,
		    d->on_outage)));
	if (d->chain[0])
		line("proof", show_text(d->chain, ""));
	line("network-free", format("%s", d->network_free ? "yes" : "no"));
	line("self-contained", format("%s", d->self_contained ? "yes" : "no"));
	show_counts(d);
	line("openers", format("%u", d->openers));
	line("worker restarts", format("%u", d->worker_restarts));
	line("consumers", joined(d->consumers, d->n_consumers));
	line("last error", show_text(d->last_error, ""));
}

void
show_status(const struct answer *a)
{
	bool any = false;

	for (size_t i = 0; i < a->n; i++) {
		const CTL(Devices) *part = a->parts[i].frame->devices;

		for (size_t k = 0; k < part->n_devices; k++) {
			if (any)
				putchar('\n');
			any = true;
			show_device(part->devices[k]);
		}
	}
	if (!any)
		puts("no devices are attached");
}

void
show_images(const struct answer *a)
{
	static const char *const heads[] = { "DIGEST", ">SIZE", ">HERE",
		"STATE", "ATTACHED", "IMAGE" };
	struct table t = { .heads = heads, .columns = ARRAY_LEN(heads) };

	for (size_t i = 0; i < a->n; i++) {
		const CTL(ImagesReply) *part = a->parts[i].frame->images_reply;

		for (size_t k = 0; k < part->n_images; k++) {
			const CTL(ImagesReply__Row) *r = part->images[k];

			table_add(&t, short_digest(r->image_digest));
			table_add(&t, size_cell(r->size));
			table_add(&t, format("%s", show_percent(r->present,
			    r->size).text));
			table_add(&t, format("%s", r->network_free ?
			    "network-free" : r->complete ? "complete" :
			    "partial"));
			table_add(&t, format("%s", r->attached ? "yes" : "no"));
			table_add(&t, text_cell(r->image));
		}
	}
	table_show(&t);
}

/* "12.3G": narrow, for tables of sizes */
static char *
narrow_size(uint64_t bytes)
{
	struct size_text t = show_size(bytes);
	char *unit = strchr(t.text, ' ');

	return format("%.*s%c", (int)(unit - t.text), t.text, unit[1]);
}

/* The owners of an image; not more than fits beside it on a terminal. */
static char *
owners_cell(const CTL(DfReply__Row) *r, unsigned width)
{
	char *owners = joined(r->owners, r->n_owners);

	if (width > 0 && strlen(owners) > OWNERS_WIDTH)
		strcpy(owners + OWNERS_WIDTH - 3, "...");
	if (owners[0])
		return owners;
	free(owners);
	return format("-");
}

void
show_df(const struct answer *a, unsigned width)
{
	static const char *const heads[] = { ">SIZE", ">ON-DISK", ">EXCL",
		">SHARED", "PINNED", "OWNERS", "IMAGE" };
	struct table t = { .heads = heads, .columns = ARRAY_LEN(heads) };
	uint64_t total = 0;

	for (size_t i = 0; i < a->n; i++) {
		const CTL(DfReply) *part = a->parts[i].frame->df_reply;

		for (size_t k = 0; k < part->n_images; k++) {
			const CTL(DfReply__Row) *r = part->images[k];

			table_add(&t, narrow_size(r->size));
			table_add(&t, narrow_size(r->on_disk));
			table_add(&t, narrow_size(r->exclusive));
			table_add(&t, narrow_size(r->shared));
			table_add(&t, format("%s", r->pinned ? "yes" : "no"));
			table_add(&t, owners_cell(r, width));
			table_add(&t, text_cell(r->image[0] ? r->image :
			    r->digest));
		}
		total = part->total;
	}
	table_show(&t);
	printf("total %s on disk\n", show_size(total).text);
}

void
show_gc(const struct answer *a, bool dry_run)
{
	static const char *const heads[] = { "RESULT", "DIGEST", "WHY" };
	struct table t = { .heads = heads, .columns = ARRAY_LEN(heads) };
	const char *freed = dry_run ? "would free" : "freed";
	uint64_t bytes = 0;

	for (size_t i = 0; i < a->n; i++) {
		const CTL(GcReply) *part = a->parts[i].frame->gc_reply;

		for (size_t k = 0; k < part->n_freed; k++) {
			table_add(&t, format("%s", freed));
			table_add(&t, short_digest(part->freed[k]));
			table_add(&t, format("-"));
		}
		for (size_t k = 0; k < part->n_kept; k++) {
			table_add(&t, format("kept"));
			table_add(&t, short_digest(part->kept[k]->digest));
			table_add(&t, text_cell(part->kept[k]->why));
		}
		bytes = part->bytes;
	}
	if (t.cells > 0)
		table_show(&t);
	printf("%s %s\n", freed, show_size(bytes).text);
}

void
show_verify(const CTL(VerifyReply) *r)
{
	printf("checked %ju, damaged %ju, repaired %ju\n",
	    (uintmax_t)r->checked, (uintmax_t)r->damaged,
	    (uintmax_t)r->repaired);
}

void
show_doctor(const CTL(DoctorReply) *doctor)
{
	for (size_t i = 0; i < doctor->n_rows; i++) {
		const CTL(DoctorReply__Row) *r = doctor->rows[i];
		_cleanup_free_ char *result = show_text(r->result, "");
		_cleanup_free_ char *name = show_text(r->name, "");
		_cleanup_free_ char *detail = show_text(r->detail, "");
		_cleanup_free_ char *remedy = show_text(r->remedy, "");

		printf("%-4s  %s: %s\n", result, name, detail);
		if (remedy[0])
			printf("      remedy: %s\n", remedy);
	}
}

void
show_metrics(const struct answer *a)
{
	for (size_t i = 0; i < a->n; i++) {
		_cleanup_free_ char *text = show_text(
		    a->parts[i].frame->metrics_reply->text, "\n\t");

		fputs(text, stdout);
	}
}

/* As the service's log writes times: UTC, milliseconds. */
void
show_event(const CTL(Event) *event)
{
	_cleanup_free_ char *kind = show_text(event->kind, "");
	_cleanup_free_ char *device = text_cell(event->device);
	_cleanup_free_ char *text = show_text(event->text, "");
	time_t seconds = (time_t)(event->time_us / 1000000);
	char stamp[32] = "?";
	struct tm utc;

	if (gmtime_r(&seconds, &utc))
		strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
	printf("%s.%03uZ %-18s %s%s%s\n", stamp,
	    (unsigned)(event->time_us / 1000 % 1000), kind, device,
	    text[0] ? "  " : "", text);
	fflush(stdout);
}

void
show_version(const CTL(VersionReply) *version)
{
	for (size_t i = 0; i < version->n_rows; i++) {
		const CTL(VersionReply__Row) *r = version->rows[i];
		_cleanup_free_ char *process = show_text(r->process, "");
		_cleanup_free_ char *number = show_text(r->version, "");

		printf("%-12s%-10s pid %-8u %u restarts\n", process, number,
		    r->pid, r->restarts);
	}
}

/* The map. */

static const struct {
	char mark;
	const char *colour, *name;
} cell_kinds[] = {	/* in the order of MapReply's values */
	{ '.', "2", "untouched" },
	{ '#', "32", "present" },
	{ 'o', "36", "fetched" },
};

static void
put_cell(FILE *out, unsigned kind, bool colour)
{
	if (kind >= ARRAY_LEN(cell_kinds))
		fputc('?', out);	/* of a newer service */
	else if (colour)
		fprintf(out, "\033[%sm%c\033[0m", cell_kinds[kind].colour,
		    cell_kinds[kind].mark);
	else
		fputc(cell_kinds[kind].mark, out);
}

void
show_cells(FILE *out, const uint8_t *cells, bool colour)
{
	static const unsigned order[] = { 1, 2, 0 };
	unsigned count[ARRAY_LEN(cell_kinds)] = { 0 };

	for (unsigned i = 0; i < MAP_CELLS; i++) {
		if (cells[i] < ARRAY_LEN(count))
			count[cells[i]]++;
		put_cell(out, cells[i], colour);
		if (i % MAP_COLUMNS == MAP_COLUMNS - 1)
			fputc('\n', out);
	}
	for (size_t i = 0; i < ARRAY_LEN(order); i++) {
		put_cell(out, order[i], colour);
		fprintf(out, " %s %u%s", cell_kinds[order[i]].name,
		    count[order[i]], i + 1 < ARRAY_LEN(order) ? "   " : "\n");
	}
}

void
show_map(const CTL(MapReply) *map)
{
	const char *plain = getenv("NO_COLOR");

	show_cells(stdout, map->cells.data, isatty(STDOUT_FILENO) &&
	    (!plain || plain[0] == '\0'));
}
