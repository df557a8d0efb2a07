/* A stand-in for NVIDIA's management library (libnvidia-ml.so.1), so that the real wrapper can be tested on machines without a card.
 *
 * What the machine is like stands in a file beside the library, named like it with ".state" behind, and is read again at every call, so
 * that a test changes the machine while it runs. Each line is a key and a value:
 *
 *   init 0                      what nvmlInit returns; other numbers are NVML's error codes
 *   hang 1                      every call waits until the line is gone
 *   driver 570.86.15
 *   count 2
 *   gpu.0.uuid GPU-aaaa         what the card tells; a value of "!15" makes that call fail with code 15
 *   gpu.0.all !15               makes every call about the card fail
 *   gpu.0.mig 1                 divided; its parts are mig.0.0., mig.0.1. and so on, with the same keys
 *   event.0 0 79                card 0 met Xid 79; each event is delivered once
 *
 * A key that is not there is NVML_ERROR_NOT_SUPPORTED. Types and codes are written down from the wrapper's bindings.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, UNKNOWN = 999 };
enum { CARDS = 64, PARTS = 8, LINE = 512 };

typedef unsigned long long u64;

/* A handle is a place in this table; part -1 is the card itself. */
struct device { int card, part; };
static struct device devices[CARDS][PARTS + 1];

/* An event set listens to the cards that were registered with it. */
struct set { int listens[CARDS]; };
static int delivered[CARDS];

static int read_key(const char *key, char *value) {
    Dl_info self;
    char path[4096], line[LINE];
    if (!dladdr((void *)read_key, &self)) return 0;
    snprintf(path, sizeof path, "%s.state", self.dli_fname);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int found = 0;
    while (!found && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        size_t length = strlen(key);
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            snprintf(value, LINE, "%s", line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static int get(const char *key, char *value) {
    char ignored[LINE];
    while (read_key("hang", ignored)) usleep(2000);
    if (!read_key(key, value)) return NOT_SUPPORTED;
    return value[0] == '!' ? atoi(value + 1) : OK;
}

static int ask(const struct device *device, const char *what, char *value) {
    char key[LINE];
    snprintf(key, sizeof key, "gpu.%d.all", device->card);
    int all = get(key, value);
    if (all != OK && all != NOT_SUPPORTED) return all;
    if (device->part < 0) snprintf(key, sizeof key, "gpu.%d.%s", device->card, what);
    else snprintf(key, sizeof key, "mig.%d.%d.%s", device->card, device->part, what);
    return get(key, value);
}

static int ask_number(const struct device *device, const char *what, u64 *number) {
    char value[LINE];
    int code = ask(device, what, value);
    if (code == OK) *number = strtoull(value, NULL, 0);
    return code;
}

static int ask_small(const struct device *device, const char *what, unsigned *number) {
    u64 wide = 0;
    int code = ask_number(device, what, &wide);
    if (code == OK) *number = (unsigned)wide;
    return code;
}

static int ask_text(const struct device *device, const char *what, char *text, unsigned length) {
    char value[LINE];
    int code = ask(device, what, value);
    if (code != OK) return code;
    if (strlen(value) + 1 > length) return TOO_SMALL;
    strcpy(text, value);
    return OK;
}

static struct device *device(int card, int part) {
    if (card < 0 || card >= CARDS || part < -1 || part >= PARTS) return NULL;
    struct device *handle = &devices[card][part + 1];
    handle->card = card;
    handle->part = part;
    return handle;
}

int nvmlInit_v2(void) {
    char value[LINE];
    int code = get("init", value);
    return code == OK ? atoi(value) : code == NOT_SUPPORTED ? OK : code;
}
int nvmlInitWithFlags(unsigned flags) { return nvmlInit_v2(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "an error of the stand-in"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    char value[LINE];
    int code = get("driver", value);
    if (code == OK) snprintf(version, length, "%s", value);
    return code;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    char value[LINE];
    int code = get("count", value);
    *count = code == OK ? (unsigned)atoi(value) : 0;
    return code == NOT_SUPPORTED ? OK : code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **handle) {
    char value[LINE], key[LINE];
    if (!(*handle = device((int)index, -1))) return INVALID;
    snprintf(key, sizeof key, "gpu.%u.handle", index);
    int code = get(key, value);
    return code == NOT_SUPPORTED ? OK : code;
}

int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length) { return ask_text(device, "uuid", uuid, length); }
int nvmlDeviceGetName(struct device *device, char *name, unsigned length) { return ask_text(device, "name", name, length); }
int nvmlDeviceGetMinorNumber(struct device *device, unsigned *minor) { return ask_small(device, "minor", minor); }
int nvmlDeviceGetTemperature(struct device *device, int sensor, unsigned *degrees) { return ask_small(device, "temperature", degrees); }
int nvmlDeviceGetTotalEnergyConsumption(struct device *device, u64 *energy) { return ask_number(device, "energy", energy); }
int nvmlDeviceGetTotalEccErrors(struct device *device, int type, int counter, u64 *errors) { return ask_number(device, "ecc", errors); }

int nvmlDeviceGetPciInfo_v3(struct device *device, void *info) {
    struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char address[32]; } *pci = info;
    memset(pci, 0, sizeof *pci);
    return ask_text(device, "pci", pci->address, sizeof pci->address);
}

/* "nvlink.0 0000:86:00.0": link 0 is up and leads there. */
int nvmlDeviceGetNvLinkState(struct device *device, unsigned link, unsigned *active) {
    char key[64], value[LINE];
    snprintf(key, sizeof key, "nvlink.%u", link);
    int code = ask(device, key, value);
    *active = code == OK;
    return code;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct device *device, unsigned link, void *info) {
    struct pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char address[32]; } *pci = info;
    char key[64];
    memset(pci, 0, sizeof *pci);
    snprintf(key, sizeof key, "nvlink.%u", link);
    return ask_text(device, key, pci->address, sizeof pci->address);
}

int nvmlDeviceGetMemoryInfo_v2(struct device *device, void *info) {
    struct memory { unsigned version; u64 total, reserved, free, used; } *memory = info;
    if (memory->version != (sizeof *memory | 2u << 24)) return INVALID;
    int code = ask_number(device, "total", &memory->total);
    if (code != OK) return code;
    if (ask_number(device, "used", &memory->used) != OK) memory->used = 0;
    memory->free = memory->total - memory->used;
    return OK;
}

int nvmlDeviceGetUtilizationRates(struct device *device, unsigned *rates) {
    rates[1] = 0;
    return ask_small(device, "busy", &rates[0]);
}

int nvmlDeviceGetCudaComputeCapability(struct device *device, int *major, int *minor) {
    char value[LINE];
    int code = ask(device, "compute", value);
    if (code == OK && sscanf(value, "%d.%d", major, minor) != 2) return UNKNOWN;
    return code;
}

int nvmlDeviceGetMigMode(struct device *device, unsigned *now, unsigned *later) {
    int code = ask_small(device, "mig", now);
    *later = *now;
    return code;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count) {
    *count = PARTS - 1;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *parent, unsigned index, struct device **handle) {
    char value[LINE];
    *handle = device(parent->card, (int)index);
    if (!*handle) return INVALID;
    return ask(*handle, "uuid", value) == NOT_SUPPORTED ? NOT_FOUND : OK;
}

int nvmlDeviceGetAttributes_v2(struct device *device, void *attributes) {
    struct { unsigned count, copy, decoder, encoder, jpeg, ofa, slices, compute; u64 megabytes; } *share = attributes;
    memset(share, 0, sizeof *share);
    char value[LINE];
    int code = ask(device, "share", value);
    if (code != OK) return code;
    return sscanf(value, "%u %u %llu", &share->slices, &share->compute, &share->megabytes) == 3 ? OK : UNKNOWN;
}

/* "processes 4711:1048576 4712:0": process and memory. */
int nvmlDeviceGetComputeRunningProcesses_v3(struct device *device, unsigned *count, void *list) {
    struct process { unsigned pid; u64 memory; unsigned gpu_instance, compute_instance; } *found = list;
    char value[LINE];
    int code = ask(device, "processes", value);
    if (code != OK) return code;
    unsigned room = *count, there = 0;
    for (char *rest = value, *one; (one = strtok_r(rest, " ", &rest)); there++)
        if (found && there < room) {
            memset(&found[there], 0xff, sizeof found[there]);
            sscanf(one, "%u:%llu", &found[there].pid, &found[there].memory);
        }
    *count = there;
    return there > room || (there && !found) ? TOO_SMALL : OK;
}

int nvmlEventSetCreate(struct set **set) { return (*set = calloc(1, sizeof **set)) ? OK : UNKNOWN; }
int nvmlEventSetFree(struct set *set) {
    free(set);
    return OK;
}

int nvmlDeviceRegisterEvents(struct device *device, u64 types, struct set *set) {
    char value[LINE];
    int code = ask(device, "uuid", value);
    if (code == OK) set->listens[device->card] = 1;
    return code;
}

int nvmlEventSetWait_v2(struct set *set, void *data, unsigned milliseconds) {
    struct { struct device *device; u64 type, data; unsigned gpu_instance, compute_instance; } *event = data;
    char key[LINE], value[LINE];
    for (int card = 0; card < CARDS; card++)
        for (int number = 0; set->listens[card] && number < CARDS; number++) {
            int at;
            u64 xid;
            snprintf(key, sizeof key, "event.%d", number);
            if (get(key, value) != OK || sscanf(value, "%d %llu", &at, &xid) != 2 || at != card || delivered[number]) continue;
            delivered[number] = 1;
            event->device = device(card, -1);
            event->type = 8;
            event->data = xid;
            return OK;
        }
    return TIMEOUT;
}
