// SPDX-License-Identifier: Apache-2.0
/*
 * What a device is, as an item of protobuf: in control's attachments, and in
 * the parent's records of what it has made (record.c).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "devd/devd.h"

void
spec_to_item(const struct device_spec *spec, Suite__Attachments__Item *item)
{
	item->name = (char *)spec->name;
	item->image_digest.data = (uint8_t *)spec->image.bytes;
	item->image_digest.len = DIGEST_LEN;
	item->blob_digest.data = (uint8_t *)spec->blob.bytes;
	item->blob_digest.len = DIGEST_LEN;
	item->layout.data = (uint8_t *)spec->layout.bytes;
	item->layout.len = DIGEST_LEN;
	item->size = spec->size;
	item->unit = spec->unit;
	item->rung = spec->rung;
	item->present = spec->present;
	item->eio_after_s = spec->eio_after_s;
}

int
spec_from_item(const Suite__Attachments__Item *item, struct device_spec *spec)
{
	memset(spec, 0, sizeof(*spec));
	if (digest_from_bytes(item->image_digest.data, item->image_digest.len,
		&spec->image) < 0 ||
	    digest_from_bytes(item->blob_digest.data, item->blob_digest.len,
		&spec->blob) < 0 ||
	    !device_name_valid(item->name))
		return -EINVAL;
	/* Of a version that knew no chunk index. */
	if (item->layout.len == 0)
		spec->layout = spec->blob;
	else if (digest_from_bytes(
		     item->layout.data, item->layout.len, &spec->layout) < 0)
		return -EINVAL;
	snprintf(spec->name, sizeof(spec->name), "%s", item->name);
	spec->size = item->size;
	spec->unit = item->unit;
	spec->rung = item->rung;
	spec->present = item->present;
	spec->eio_after_s = item->eio_after_s;
	device_id(&spec->blob, &spec->image, &spec->layout, spec->rung,
	    spec->present, spec->id);
	return 0;
}
