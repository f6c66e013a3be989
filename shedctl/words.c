// SPDX-License-Identifier: Apache-2.0
/*
 * The enums of control.proto as people write and read them, both ways.
 */
#include <errno.h>
#include <string.h>

#include "shedctl/shedctl.h"

#define V1(name)	SHEDSTREAM__CONTROL__V1__##name

const struct word rung_words[] = {
	{ "default", V1(RUNG__RUNG_DEFAULT) },
	{ "transport", V1(RUNG__RUNG_TRANSPORT) },
	{ "complete", V1(RUNG__RUNG_COMPLETE) },
	{ "whole", V1(RUNG__RUNG_WHOLE) },
	{ "chunk", V1(RUNG__RUNG_CHUNK) },
	{ NULL, 0 },
};

const struct word present_words[] = {
	{ "auto", V1(PRESENT__PRESENT_AUTO) },
	{ "nbd", V1(PRESENT__PRESENT_NBD) },
	{ "file", V1(PRESENT__PRESENT_FILE) },
	{ "ublk", V1(PRESENT__PRESENT_UBLK) },
	{ "plain", V1(PRESENT__PRESENT_PLAIN) },
	{ "kernel-nbd", V1(PRESENT__PRESENT_KERNEL_NBD) },
	{ NULL, 0 },
};

const struct word fetch_words[] = {
	{ "lazy", V1(FETCH_MODE__FETCH_LAZY) },
	{ "whole", V1(FETCH_MODE__FETCH_WHOLE) },
	{ NULL, 0 },
};

const struct word outage_words[] = {
	{ "default", V1(ON_OUTAGE__OUTAGE_DEFAULT) },
	{ "stall", V1(ON_OUTAGE__OUTAGE_STALL) },
	{ "eio", V1(ON_OUTAGE__OUTAGE_EIO) },
	{ NULL, 0 },
};

const struct word state_words[] = {
	{ "lazy", V1(DEVICE__STATE__LAZY) },
	{ "completing", V1(DEVICE__STATE__COMPLETING) },
	{ "complete", V1(DEVICE__STATE__COMPLETE) },
	{ "failed", V1(DEVICE__STATE__FAILED) },
	{ "draining", V1(DEVICE__STATE__DRAINING) },
	{ NULL, 0 },
};

int
word_parse(const struct word *words, const char *text, uint32_t *out)
{
	for (; words->text; words++)
		if (strcmp(words->text, text) == 0) {
			*out = words->value;
			return 0;
		}
	return -EINVAL;
}

const char *
word_name(const struct word *words, uint32_t value)
{
	for (; words->text; words++)
		if (words->value == value)
			return words->text;
	return "unknown";
}

const char *
word_code(uint32_t code)
{
	const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(
	    &shedstream__control__v1__code__descriptor, (int)code);

	return v && code != CTL_CODE(OK) ? v->name : "INTERNAL";
}
