// SPDX-License-Identifier: Apache-2.0
/*
 * Answers for programs: one JSON object on stdout.  CLI.md fixes the names;
 * adding one is free.  Text that is not UTF-8 has its odd bytes replaced, and
 * everything beyond ASCII is escaped, so that the output is safe on a terminal
 * too.
 */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/own.h"
#include "shedctl/shedctl.h"

void
json_show(json_t *object)
{
	if (!object || json_dumpf(object, stdout, JSON_COMPACT |
	    JSON_ENSURE_ASCII) < 0) {
		fputs("shedctl: INTERNAL: cannot make JSON of the answer; free "
		    "some memory, or see whether stdout can be written\n",
		    stderr);
		exit(STATUS_FAILED);
	}
	putchar('\n');
	fflush(stdout);
	json_decref(object);
}

json_t *
json_text(const char *text)
{
	json_t *json = json_string(text);
	_cleanup_free_ char *ascii = NULL;

	if (json)
		return json;
	ascii = strdup(text);
	if (!ascii)
		return NULL;
	for (char *c = ascii; *c; c++)
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	return json_string(ascii);
}

json_t *
json_number(uint64_t number)
{
	return json_integer(number > INT64_MAX ? INT64_MAX :
	    (json_int_t)number);
}

static json_t *
json_texts(char **texts, size_t n)
{
	json_t *array = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(array, json_text(texts[i]));
	return array;
}

static json_t *
json_word(const struct word *words, uint32_t value)
{
	return json_string(word_name(words, value));
}

static json_t *
device_object(const CTL(Device) *d)
{
	return json_pack(
	    "{so so so so so so so so so sb so sb sb"
	    " s{so so so so} s{so so so} s{so so so} s{so so} s{so so}"
	    " so so so so so so so so so so}",
	    "name", json_text(d->name),
	    "aliases", json_texts(d->aliases, d->n_aliases),
	    "image", json_text(d->image),
	    "image_digest", json_text(d->image_digest),
	    "digest", json_text(d->digest),
	    "size", json_number(d->size),
	    "path", json_text(d->path),
	    "present_as", json_word(present_words, d->present),
	    "integrity", json_word(rung_words, d->rung),
	    "unproven", d->unproven,
	    "state", json_word(state_words, d->state),
	    "network_free", d->network_free,
	    "self_contained", d->self_contained,
	    "chunks", "total", json_number(d->chunks_total),
	    "present", json_number(d->chunks_present),
	    "shared", json_number(d->chunks_shared),
	    "damaged", json_number(d->chunks_damaged),
	    "bytes", "present", json_number(d->bytes_present),
	    "fetched", json_number(d->bytes_fetched),
	    "served", json_number(d->bytes_served),
	    "requests", "sent", json_number(d->requests_sent),
	    "retried", json_number(d->requests_retried),
	    "failed", json_number(d->requests_failed),
	    "reads", "hot", json_number(d->reads_hot),
	    "cold", json_number(d->reads_cold),
	    "prefetch", "chunks", json_number(d->prefetch_chunks),
	    "used", json_number(d->prefetch_used),
	    "stalled_reads", json_number(d->stalled_reads),
	    "stalled_since", json_number(d->stalled_since),
	    "on_outage", json_word(outage_words, d->on_outage),
	    "outage_delay", json_number(d->outage_delay_s),
	    "reads_eio", json_number(d->reads_eio),
	    "consumers", json_texts(d->consumers, d->n_consumers),
	    "last_error", json_text(d->last_error),
	    "worker_restarts", json_number(d->worker_restarts),
	    "openers", json_number(d->openers),
	    "chain", json_text(d->chain));
}

void
json_status(const CTL(Device) *device)
{
	json_show(device_object(device));
}

void
json_devices(const struct answer *a)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < a->n; i++) {
		const CTL(Devices) *part = a->parts[i].frame->devices;

		for (size_t k = 0; k < part->n_devices; k++)
			json_array_append_new(rows,
			    device_object(part->devices[k]));
	}
	json_show(json_pack("{so}", "devices", rows));
}

void
json_attached(const CTL(Attached) *d)
{
	json_show(json_pack("{so so so so so so so}",
	    "name", json_text(d->name),
	    "path", json_text(d->path),
	    "image_digest", json_text(d->image_digest),
	    "digest", json_text(d->digest),
	    "size", json_number(d->size),
	    "present_as", json_word(present_words, d->present),
	    "integrity", json_word(rung_words, d->rung)));
}

void
json_images(const struct answer *a)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < a->n; i++) {
		const CTL(ImagesReply) *part = a->parts[i].frame->images_reply;

		for (size_t k = 0; k < part->n_images; k++) {
			const CTL(ImagesReply__Row) *r = part->images[k];

			json_array_append_new(rows, json_pack(
			    "{so so so so so sb sb sb}",
			    "image", json_text(r->image),
			    "image_digest", json_text(r->image_digest),
			    "digest", json_text(r->digest),
			    "size", json_number(r->size),
			    "present", json_number(r->present),
			    "complete", r->complete,
			    "network_free", r->network_free,
			    "attached", r->attached));
		}
	}
	json_show(json_pack("{so}", "images", rows));
}

void
json_map(const char *name, const CTL(MapReply) *map)
{
	json_t *cells = json_array();
	json_int_t count[3] = { 0 };

	for (size_t i = 0; i < map->cells.len; i++) {
		unsigned kind = map->cells.data[i];

		if (kind < ARRAY_LEN(count))
			count[kind]++;
		json_array_append_new(cells, json_integer(kind));
	}
	json_show(json_pack("{so sI sI sI so}", "name", json_text(name),
	    "untouched", count[0], "present", count[1], "fetched", count[2],
	    "cells", cells));
}

void
json_df(const struct answer *a)
{
	json_t *rows = json_array();
	uint64_t total = 0;

	for (size_t i = 0; i < a->n; i++) {
		const CTL(DfReply) *part = a->parts[i].frame->df_reply;

		for (size_t k = 0; k < part->n_images; k++) {
			const CTL(DfReply__Row) *r = part->images[k];

			json_array_append_new(rows, json_pack(
			    "{so so so so so so sb so}",
			    "image", json_text(r->image),
			    "digest", json_text(r->digest),
			    "size", json_number(r->size),
			    "on_disk", json_number(r->on_disk),
			    "exclusive", json_number(r->exclusive),
			    "shared", json_number(r->shared),
			    "pinned", r->pinned,
			    "owners", json_texts(r->owners, r->n_owners)));
		}
		total = part->total;
	}
	json_show(json_pack("{so so}", "images", rows, "total",
	    json_number(total)));
}

void
json_gc(const struct answer *a)
{
	json_t *freed = json_array(), *kept = json_array();
	uint64_t bytes = 0;

	for (size_t i = 0; i < a->n; i++) {
		const CTL(GcReply) *part = a->parts[i].frame->gc_reply;

		for (size_t k = 0; k < part->n_freed; k++)
			json_array_append_new(freed,
			    json_text(part->freed[k]));
		for (size_t k = 0; k < part->n_kept; k++)
			json_array_append_new(kept, json_pack("{so so}",
			    "digest", json_text(part->kept[k]->digest),
			    "why", json_text(part->kept[k]->why)));
		bytes = part->bytes;
	}
	json_show(json_pack("{so so so}", "freed", freed, "kept", kept,
	    "bytes", json_number(bytes)));
}

void
json_verify(const CTL(VerifyReply) *r)
{
	json_show(json_pack("{so so so}",
	    "checked", json_number(r->checked),
	    "damaged", json_number(r->damaged),
	    "repaired", json_number(r->repaired)));
}

void
json_doctor(const CTL(DoctorReply) *doctor)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < doctor->n_rows; i++) {
		const CTL(DoctorReply__Row) *r = doctor->rows[i];

		json_array_append_new(rows, json_pack("{so so so so}",
		    "name", json_text(r->name),
		    "result", json_text(r->result),
		    "detail", json_text(r->detail),
		    "remedy", json_text(r->remedy)));
	}
	json_show(json_pack("{so}", "rows", rows));
}

void
json_metrics(const struct answer *a)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 1;

	for (size_t i = 0; i < a->n; i++)
		size += strlen(a->parts[i].frame->metrics_reply->text);
	text = calloc(1, size);
	for (size_t i = 0; text && i < a->n; i++)
		strcat(text, a->parts[i].frame->metrics_reply->text);
	json_show(text ? json_pack("{so}", "text", json_text(text)) : NULL);
}

json_t *
json_event(const CTL(Event) *event)
{
	return json_pack("{so so so so so}",
	    "time_us", json_number(event->time_us),
	    "kind", json_text(event->kind),
	    "device", json_text(event->device),
	    "digest", json_text(event->digest),
	    "text", json_text(event->text));
}

void
json_version(const CTL(VersionReply) *version)
{
	json_t *rows = json_array();

	for (size_t i = 0; i < version->n_rows; i++) {
		const CTL(VersionReply__Row) *r = version->rows[i];

		json_array_append_new(rows, json_pack("{so so so so}",
		    "process", json_text(r->process),
		    "version", json_text(r->version),
		    "pid", json_number(r->pid),
		    "restarts", json_number(r->restarts)));
	}
	json_show(json_pack("{ss so}", "shedctl", VERSION, "processes", rows));
}
