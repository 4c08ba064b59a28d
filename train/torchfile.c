// SPDX-License-Identifier: Apache-2.0
#include "train/torchfile.h"

#include "core/file.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
    END_BYTES = 22,
    CENTRAL_BYTES = 46,
    LOCAL_BYTES = 30,
    MAX_COMMENT = 65535,
    MAX_NODES = 1 << 18,
    MAX_MEMO = 1 << 18,
    MAX_RANK = 8,
    NAME_SIZE = 256,
};

static const uint32_t end_mark = 0x06054b50, central_mark = 0x02014b50, local_mark = 0x04034b50;

static uint32_t get16(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

static uint32_t get32(const unsigned char *at)
{
    return get16(at) | get16(at + 2) << 16;
}

static uint64_t get64(const unsigned char *at)
{
    return get32(at) | (uint64_t)get32(at + 4) << 32;
}

// --------------------------------------------------------------------------------------------- archive

struct archive {
    const unsigned char *data;
    size_t size;
    const char *file;
    size_t directory, n_entries; // of the central directory: offset, number
    char prefix[NAME_SIZE];      // folder that holds data.pkl, with its slash
};

struct span {
    const unsigned char *data;
    size_t size;
};

int torchfile_is(const void *data, size_t size)
{
    return size >= 4 && get32(data) == local_mark;
}

static int find_directory(struct archive *archive, struct fault_note *why)
{
    if (archive->size < END_BYTES)
        return fault_set(why, FAULT_WEIGHTS, "checkpoint '%s' has %zu bytes and no archive", archive->file,
                         archive->size);
    size_t last = archive->size - END_BYTES, least = last > MAX_COMMENT ? last - MAX_COMMENT : 0;
    for (size_t at = last + 1; at-- > least;) {
        const unsigned char *end = archive->data + at;
        if (get32(end) != end_mark)
            continue;
        archive->n_entries = get16(end + 10);
        archive->directory = get32(end + 16);
        if (archive->directory <= at && get32(end + 12) <= at - archive->directory)
            return 0;
    }
    return fault_set(why, FAULT_WEIGHTS, "checkpoint '%s' has no directory: cut off, or larger than 4 GiB",
                     archive->file);
}

// The contents behind one entry of the directory.
static int open_entry(const struct archive *archive, const unsigned char *entry, struct span *span,
                      struct fault_note *why)
{
    size_t size = get32(entry + 24), local = get32(entry + 42);
    if (get16(entry + 10) != 0 || get32(entry + 20) != size)
        return fault_set(why, FAULT_WEIGHTS, "checkpoint '%s' is compressed, which torch.save never does",
                         archive->file);
    if (local > archive->size || archive->size - local < LOCAL_BYTES ||
        get32(archive->data + local) != local_mark)
        return fault_set(why, FAULT_WEIGHTS, "checkpoint '%s' has an entry that lies outside it",
                         archive->file);
    size_t first =
        local + LOCAL_BYTES + get16(archive->data + local + 26) + get16(archive->data + local + 28);
    if (first > archive->size || size > archive->size - first)
        return fault_set(why, FAULT_WEIGHTS, "checkpoint '%s' has an entry that lies outside it",
                         archive->file);
    span->data = archive->data + first;
    span->size = size;
    if (crc32_z(0, span->data, size) != get32(entry + 16))
        return fault_set(why, FAULT_WEIGHTS, "checkpoint '%s' has an entry whose checksum is wrong",
                         archive->file);
    return 0;
}

// Finds the entry whose name ends with `tail`, after exactly `prefix` (NULL: after anything, which is then
// written to archive->prefix). *found is 0 when there is none.
static int find_entry(struct archive *archive, const char *prefix, const char *tail, struct span *span,
                      int *found, struct fault_note *why)
{
    size_t at = archive->directory, n_tail = strlen(tail), n_prefix = prefix != NULL ? strlen(prefix) : 0;
    *found = 0;
    for (size_t i = 0; i < archive->n_entries; i++) {
        const unsigned char *entry = archive->data + at;
        if (archive->size - at < CENTRAL_BYTES || get32(entry) != central_mark)
            return fault_set(why, FAULT_WEIGHTS, "checkpoint '%s' has a damaged directory", archive->file);
        size_t n = get16(entry + 28), more = n + get16(entry + 30) + get16(entry + 32);
        if (archive->size - at - CENTRAL_BYTES < more)
            return fault_set(why, FAULT_WEIGHTS, "checkpoint '%s' has a damaged directory", archive->file);
        const char *name = (const char *)entry + CENTRAL_BYTES;
        int fits = n >= n_tail && memcmp(name + n - n_tail, tail, n_tail) == 0;
        if (prefix != NULL)
            fits = fits && n == n_prefix + n_tail && memcmp(name, prefix, n_prefix) == 0;
        if (fits && n - n_tail < sizeof archive->prefix) {
            if (prefix == NULL)
                snprintf(archive->prefix, sizeof archive->prefix, "%.*s", (int)(n - n_tail), name);
            *found = 1;
            return open_entry(archive, entry, span, why);
        }
        at += CENTRAL_BYTES + more;
    }
    return 0;
}

// --------------------------------------------------------------------------------------------- pickle

enum node_type {
    NODE_MARK,
    NODE_OTHER, // something that no tensor needs
    NODE_INT,
    NODE_TEXT,
    NODE_GLOBAL, // text: module and name with a dot between
    NODE_TUPLE,  // and lists
    NODE_DICT,   // children: key, value, key, value ...
    NODE_STORAGE,
    NODE_TENSOR,
};

enum dtype { DTYPE_NONE, DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F64 };

struct node {
    enum node_type type;
    int64_t number;   // INT; of STORAGE the dtype; of TENSOR its first element
    const char *text; // TEXT, GLOBAL, STORAGE (key), not terminated
    size_t n_text;
    int storage, shape, strides; // TENSOR: nodes
    int *children;
    size_t n_children, room;
};

struct pickle {
    const unsigned char *at, *end;
    const char *file;
    struct node *nodes;
    size_t n_nodes, node_room;
    int *stack, *memo;
    size_t n_stack, stack_room, n_memo;
    struct fault_note *why;
};

static int damaged(const struct pickle *pickle, const char *what)
{
    return fault_set(pickle->why, FAULT_WEIGHTS, "the pickle of checkpoint '%s' is damaged: %s", pickle->file,
                     what);
}

static int no_memory(const struct pickle *pickle)
{
    return fault_set(pickle->why, FAULT_NO_MEMORY, "no memory to read checkpoint '%s'", pickle->file);
}

static int push(struct pickle *pickle, int node)
{
    if (pickle->n_stack == pickle->stack_room) {
        size_t room = pickle->stack_room == 0 ? 256 : 2 * pickle->stack_room;
        int *larger = room > MAX_NODES ? NULL : realloc(pickle->stack, room * sizeof *larger);
        if (larger == NULL)
            return room > MAX_NODES ? damaged(pickle, "too deep") : no_memory(pickle);
        pickle->stack = larger;
        pickle->stack_room = room;
    }
    pickle->stack[pickle->n_stack++] = node;
    return 0;
}

// A new node on top of the stack; the pointer holds until the next.
static int push_new(struct pickle *pickle, enum node_type type, struct node **made)
{
    if (pickle->n_nodes == pickle->node_room) {
        size_t room = pickle->node_room == 0 ? 256 : 2 * pickle->node_room;
        struct node *larger = room > MAX_NODES ? NULL : realloc(pickle->nodes, room * sizeof *larger);
        if (larger == NULL)
            return room > MAX_NODES ? damaged(pickle, "too many objects") : no_memory(pickle);
        pickle->nodes = larger;
        pickle->node_room = room;
    }
    *made = &pickle->nodes[pickle->n_nodes];
    memset(*made, 0, sizeof **made);
    (*made)->type = type;
    return push(pickle, (int)pickle->n_nodes++);
}

static int pop(struct pickle *pickle, int *node)
{
    if (pickle->n_stack == 0 || pickle->nodes[pickle->stack[pickle->n_stack - 1]].type == NODE_MARK)
        return damaged(pickle, "the stack is empty");
    *node = pickle->stack[--pickle->n_stack];
    return 0;
}

static int take(struct pickle *pickle, size_t n, const unsigned char **at)
{
    if ((size_t)(pickle->end - pickle->at) < n)
        return damaged(pickle, "it ends early");
    *at = pickle->at;
    pickle->at += n;
    return 0;
}

static int add_child(struct pickle *pickle, int parent, int child)
{
    struct node *node = &pickle->nodes[parent];
    if (node->n_children == node->room) {
        size_t room = node->room == 0 ? 4 : 2 * node->room;
        int *larger = realloc(node->children, room * sizeof *larger);
        if (larger == NULL)
            return no_memory(pickle);
        node->children = larger;
        node->room = room;
    }
    node->children[node->n_children++] = child;
    return 0;
}

// Index in the stack of the newest mark.
static int find_mark(struct pickle *pickle, size_t *at)
{
    for (size_t i = pickle->n_stack; i-- > 0;)
        if (pickle->nodes[pickle->stack[i]].type == NODE_MARK) {
            *at = i;
            return 0;
        }
    return damaged(pickle, "a mark is missing");
}

// A tuple of the last n on the stack, which leave it; from_mark: of all after the mark.
static int make_tuple(struct pickle *pickle, size_t n, int from_mark)
{
    size_t first = 0;
    struct node *made;
    int rc = 0;
    if (from_mark) {
        rc = find_mark(pickle, &first);
        n = pickle->n_stack - first - 1;
    } else if (n > pickle->n_stack) {
        rc = damaged(pickle, "the stack is empty");
    }
    if (rc != 0)
        return rc;
    size_t from = pickle->n_stack - n, old = pickle->n_stack;
    rc = push_new(pickle, NODE_TUPLE, &made);
    if (rc != 0)
        return rc;
    int tuple = pickle->stack[old];
    for (size_t i = from; rc == 0 && i < old; i++) {
        if (pickle->nodes[pickle->stack[i]].type == NODE_MARK)
            return damaged(pickle, "a mark where a value is due");
        rc = add_child(pickle, tuple, pickle->stack[i]);
    }
    pickle->n_stack = from_mark ? first : from;
    return rc != 0 ? rc : push(pickle, tuple);
}

// What follows the mark goes into the list or dictionary before it.
static int add_items(struct pickle *pickle, enum node_type type, size_t first, size_t n_skipped)
{
    if (first < 1)
        return damaged(pickle, "items without a container");
    int parent = pickle->stack[first - 1], rc = 0;
    size_t from = first + n_skipped;
    if (type == NODE_DICT && (pickle->n_stack - from) % 2 != 0)
        return damaged(pickle, "a key without a value");
    if (pickle->nodes[parent].type != type && pickle->nodes[parent].type != NODE_OTHER)
        return damaged(pickle, "items for something that holds none");
    for (size_t i = from; rc == 0 && i < pickle->n_stack; i++) {
        if (pickle->nodes[pickle->stack[i]].type == NODE_MARK)
            return damaged(pickle, "a mark where a value is due");
        rc = add_child(pickle, parent, pickle->stack[i]);
    }
    pickle->n_stack = first;
    return rc;
}

static int text_is(const struct node *node, const char *text)
{
    return node->n_text == strlen(text) && memcmp(node->text, text, node->n_text) == 0;
}

static enum dtype dtype_of(const struct node *global)
{
    static const struct {
        const char *name;
        enum dtype dtype;
    } types[] = {{"torch.FloatStorage", DTYPE_F32},
                 {"torch.HalfStorage", DTYPE_F16},
                 {"torch.BFloat16Storage", DTYPE_BF16},
                 {"torch.DoubleStorage", DTYPE_F64}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (text_is(global, types[i].name))
            return types[i].dtype;
    return DTYPE_NONE;
}

static const struct node *child(const struct pickle *pickle, const struct node *node, size_t i)
{
    return i < node->n_children ? &pickle->nodes[node->children[i]] : NULL;
}

// ('storage', type, key, location, count)
static int persistent(struct pickle *pickle)
{
    int tuple = 0, rc = pop(pickle, &tuple);
    struct node *made = NULL;
    if (rc == 0)
        rc = push_new(pickle, NODE_STORAGE, &made);
    if (rc != 0 || made == NULL)
        return rc;
    const struct node *id = &pickle->nodes[tuple], *kind = child(pickle, id, 0), *type = child(pickle, id, 1),
                      *key = child(pickle, id, 2);
    if (id->type != NODE_TUPLE || kind == NULL || !text_is(kind, "storage") || type == NULL ||
        type->type != NODE_GLOBAL || key == NULL || key->type != NODE_TEXT)
        return damaged(pickle, "a reference that is no storage");
    made->number = dtype_of(type);
    made->text = key->text;
    made->n_text = key->n_text;
    return 0;
}

static int reduce(struct pickle *pickle)
{
    int arguments = 0, function = 0, rc = pop(pickle, &arguments);
    struct node *made = NULL;
    if (rc == 0)
        rc = pop(pickle, &function);
    if (rc != 0)
        return rc;
    struct node *f = &pickle->nodes[function];
    const struct node *a = &pickle->nodes[arguments];
    if (f->type == NODE_GLOBAL && text_is(f, "torch._utils._rebuild_parameter") && a->type == NODE_TUPLE &&
        a->n_children > 0)
        return push(pickle, a->children[0]);
    int is_tensor = f->type == NODE_GLOBAL && text_is(f, "torch._utils._rebuild_tensor_v2");
    int is_dict = f->type == NODE_GLOBAL && text_is(f, "collections.OrderedDict");
    rc = push_new(pickle, is_tensor ? NODE_TENSOR : is_dict ? NODE_DICT : NODE_OTHER, &made);
    if (rc != 0 || !is_tensor || made == NULL)
        return rc;
    a = &pickle->nodes[arguments];
    const struct node *storage = child(pickle, a, 0), *offset = child(pickle, a, 1),
                      *shape = child(pickle, a, 2), *strides = child(pickle, a, 3);
    if (a->type != NODE_TUPLE || strides == NULL || storage->type != NODE_STORAGE ||
        offset->type != NODE_INT || shape->type != NODE_TUPLE || strides->type != NODE_TUPLE)
        return damaged(pickle, "a tensor without its parts");
    made->number = offset->number;
    made->storage = a->children[0];
    made->shape = a->children[2];
    made->strides = a->children[3];
    return 0;
}

static int put_memo(struct pickle *pickle, size_t index)
{
    if (pickle->n_stack == 0 || index >= MAX_MEMO)
        return damaged(pickle, "nothing to remember");
    if (index >= pickle->n_memo) {
        int *larger = realloc(pickle->memo, (index + 1) * 2 * sizeof *larger);
        if (larger == NULL)
            return no_memory(pickle);
        pickle->memo = larger;
        for (size_t i = pickle->n_memo; i < (index + 1) * 2; i++)
            larger[i] = -1;
        pickle->n_memo = (index + 1) * 2;
    }
    pickle->memo[index] = pickle->stack[pickle->n_stack - 1];
    return 0;
}

static int get_memo(struct pickle *pickle, size_t index)
{
    if (index >= pickle->n_memo || pickle->memo[index] < 0)
        return damaged(pickle, "something is recalled that was never there");
    return push(pickle, pickle->memo[index]);
}

static int push_number(struct pickle *pickle, int64_t number)
{
    struct node *made;
    int rc = push_new(pickle, NODE_INT, &made);
    if (rc == 0)
        made->number = number;
    return rc;
}

static int push_text(struct pickle *pickle, enum node_type type, const unsigned char *text, size_t n)
{
    struct node *made;
    int rc = push_new(pickle, type, &made);
    if (rc == 0) {
        made->text = (const char *)text;
        made->n_text = n;
    }
    return rc;
}

// Two lines, module and name; they are joined in place of the line end by the caller's comparison text.
static int global(struct pickle *pickle)
{
    static const char *const known[] = {"torch.FloatStorage",
                                        "torch.HalfStorage",
                                        "torch.BFloat16Storage",
                                        "torch.DoubleStorage",
                                        "torch._utils._rebuild_tensor_v2",
                                        "torch._utils._rebuild_parameter",
                                        "collections.OrderedDict"};
    size_t left = (size_t)(pickle->end - pickle->at);
    const unsigned char *module = pickle->at, *line = left > 0 ? memchr(module, '\n', left) : NULL;
    if (line == NULL)
        return damaged(pickle, "it ends early");
    const unsigned char *name = line + 1, *last = memchr(name, '\n', (size_t)(pickle->end - name));
    if (last == NULL)
        return damaged(pickle, "it ends early");
    size_t n_module = (size_t)(line - module), n_name = (size_t)(last - name);
    pickle->at = last + 1;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        size_t n = strlen(known[i]);
        if (n == n_module + 1 + n_name && memcmp(known[i], module, n_module) == 0 &&
            memcmp(known[i] + n - n_name, name, n_name) == 0)
            return push_text(pickle, NODE_GLOBAL, (const unsigned char *)known[i], n);
    }
    return push_text(pickle, NODE_GLOBAL, module, n_module);
}

static int long1(struct pickle *pickle)
{
    const unsigned char *at = NULL, *bytes = NULL;
    int64_t value = 0;
    int rc = take(pickle, 1, &at);
    if (rc == 0 && at != NULL)
        rc = take(pickle, *at, &bytes);
    if (rc != 0 || at == NULL || bytes == NULL)
        return rc;
    if (*at > 8)
        return damaged(pickle, "a number of more than 64 bits");
    for (int i = 0; i < *at; i++)
        value |= (int64_t)((uint64_t)bytes[i] << (8 * i));
    if (*at > 0 && *at < 8 && bytes[*at - 1] >= 128)
        value -= (int64_t)1 << (8 * *at);
    return push_number(pickle, value);
}

static int unicode(struct pickle *pickle)
{
    const unsigned char *at = NULL;
    int rc = take(pickle, 4, &at);
    size_t n = rc == 0 && at != NULL ? get32(at) : 0;
    if (rc == 0)
        rc = take(pickle, n, &at);
    return rc != 0 ? rc : push_text(pickle, NODE_TEXT, at, n);
}

// One item onto the list or into the dictionary that lies below it.
static int add_one(struct pickle *pickle, enum node_type type, size_t n)
{
    if (pickle->n_stack < n + 1)
        return damaged(pickle, "the stack is empty");
    return add_items(pickle, type, pickle->n_stack - n, 0);
}

static int add_marked(struct pickle *pickle, enum node_type type)
{
    size_t mark = 0;
    int rc = find_mark(pickle, &mark);
    return rc != 0 ? rc : add_items(pickle, type, mark, 1);
}

// Operations of protocol 2 with a fixed number of bytes after them.
static int fixed(struct pickle *pickle, unsigned char op, int *known)
{
    static const struct {
        unsigned char op, n;
    } sizes[] = {{0x80, 1}, {'q', 1}, {'r', 4}, {'h', 1}, {'j', 4}, {'K', 1}, {'M', 2}, {'J', 4}, {'G', 8}};
    const unsigned char *at = NULL;
    struct node *made;
    size_t n = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].op == op)
            n = sizes[i].n;
    *known = n > 0;
    int rc = n > 0 ? take(pickle, n, &at) : 0;
    if (rc != 0 || at == NULL)
        return rc;
    switch (op) {
    case 0x80:
        return *at == 2 ? 0 : damaged(pickle, "its protocol is not 2");
    case 'q':
        return put_memo(pickle, *at);
    case 'r':
        return put_memo(pickle, get32(at));
    case 'h':
        return get_memo(pickle, *at);
    case 'j':
        return get_memo(pickle, get32(at));
    case 'K':
        return push_number(pickle, *at);
    case 'M':
        return push_number(pickle, get16(at));
    case 'J':
        return push_number(pickle, (int32_t)get32(at));
    default: // a real number: no tensor needs one
        return push_new(pickle, NODE_OTHER, &made);
    }
}

static int step(struct pickle *pickle, unsigned char op)
{
    struct node *made;
    int known, state, rc = fixed(pickle, op, &known);
    if (rc != 0 || known)
        return rc;
    switch (op) {
    case '(':
        return push_new(pickle, NODE_MARK, &made);
    case '}':
        return push_new(pickle, NODE_DICT, &made);
    case ']':
    case ')':
        return push_new(pickle, NODE_TUPLE, &made);
    case 'N':
    case 0x88:
    case 0x89:
        return push_new(pickle, NODE_OTHER, &made);
    case 'X':
        return unicode(pickle);
    case 'c':
        return global(pickle);
    case 0x8a:
        return long1(pickle);
    case 't':
        return make_tuple(pickle, 0, 1);
    case 0x85:
    case 0x86:
    case 0x87:
        return make_tuple(pickle, (size_t)op - 0x84, 0);
    case 'Q':
        return persistent(pickle);
    case 'R':
        return reduce(pickle);
    case 'b': // an object's state, of no interest
        return pop(pickle, &state);
    case 's':
        return add_one(pickle, NODE_DICT, 2);
    case 'a':
        return add_one(pickle, NODE_TUPLE, 1);
    case 'u':
        return add_marked(pickle, NODE_DICT);
    case 'e':
        return add_marked(pickle, NODE_TUPLE);
    default:
        return fault_set(pickle->why, FAULT_WEIGHTS,
                         "the pickle of checkpoint '%s' has operation 0x%02x, which "
                         "torch.save does not write for tensors",
                         pickle->file, op);
    }
}

static int run(struct pickle *pickle)
{
    const unsigned char *op = NULL;
    for (;;) {
        int rc = take(pickle, 1, &op);
        if (rc != 0 || op == NULL || *op == '.')
            return rc;
        if (rc == 0)
            rc = step(pickle, *op);
        if (rc != 0)
            return rc;
    }
}

static void pickle_done(struct pickle *pickle)
{
    for (size_t i = 0; i < pickle->n_nodes; i++)
        free(pickle->nodes[i].children);
    free(pickle->nodes);
    free(pickle->stack);
    free(pickle->memo);
}

// --------------------------------------------------------------------------------------------- tensors

static const char module_prefix[] = "module.";

// The network's tensor that a key names, or -1.
static int tensor_of(const struct net *net, const struct node *key)
{
    const char *text = key->text;
    size_t n = key->n_text, n_prefix = sizeof module_prefix - 1;
    if (key->type != NODE_TEXT)
        return -1;
    if (n > n_prefix && memcmp(text, module_prefix, n_prefix) == 0) {
        text += n_prefix;
        n -= n_prefix;
    }
    for (int i = 0; i < net->n_tensors; i++)
        if (strlen(net->tensors[i].name) == n && memcmp(net->tensors[i].name, text, n) == 0)
            return i;
    return -1;
}

static const struct node *find_state_dict(const struct pickle *pickle, const struct net *net)
{
    const struct node *best = NULL;
    int most = 0;
    for (size_t i = 0; i < pickle->n_nodes; i++) {
        const struct node *dict = &pickle->nodes[i];
        int n = 0;
        for (size_t k = 0; dict->type == NODE_DICT && k + 1 < dict->n_children; k += 2)
            n += tensor_of(net, child(pickle, dict, k)) >= 0 &&
                 child(pickle, dict, k + 1)->type == NODE_TENSOR;
        if (n > most) {
            most = n;
            best = dict;
        }
    }
    return best;
}

// Appends a name to a list in a sentence, as far as there is room.
static void add_name(char *list, size_t size, const char *text, size_t n)
{
    size_t at = strlen(list);
    char clean[64];
    size_t m = 0;
    for (; m < n && m + 1 < sizeof clean; m++)
        clean[m] = (char)(text[m] >= 0x20 && text[m] < 0x7f ? text[m] : '?');
    clean[m] = '\0';
    if (at + m + 8 < size)
        snprintf(list + at, size - at, "%s%s", at > 0 ? ", " : "", clean);
    else if (at > 0 && list[at - 1] != '.')
        snprintf(list + at, size - at, " ...");
}

static double half_value(uint32_t bits)
{
    int exponent = (int)(bits >> 10 & 31);
    double fraction = (double)(bits & 1023) / 1024;
    double value = exponent == 31  ? (fraction > 0 ? NAN : HUGE_VAL)
                   : exponent == 0 ? ldexp(fraction, -14)
                                   : ldexp(1 + fraction, exponent - 15);
    return bits >> 15 ? -value : value;
}

static double element(const unsigned char *data, enum dtype dtype, size_t i)
{
    uint32_t bits;
    float single;
    uint64_t wide;
    double value;
    switch (dtype) {
    case DTYPE_F16:
        return half_value(get16(data + 2 * i));
    case DTYPE_BF16:
        bits = get16(data + 2 * i) << 16;
        memcpy(&single, &bits, sizeof single);
        return (double)single;
    case DTYPE_F64:
        wide = get64(data + 8 * i);
        memcpy(&value, &wide, sizeof value);
        return value;
    default:
        bits = get32(data + 4 * i);
        memcpy(&single, &bits, sizeof single);
        return (double)single;
    }
}

struct layout {
    int rank;
    size_t shape[MAX_RANK], stride[MAX_RANK];
    size_t first, last; // elements of the storage that are used
};

static int lay_out(const struct pickle *pickle, const struct node *tensor, const struct net_tensor *want,
                   struct layout *layout, struct fault_note *why)
{
    const struct node *shape = &pickle->nodes[tensor->shape], *strides = &pickle->nodes[tensor->strides];
    int is_same = shape->n_children == (size_t)want->n_dims && strides->n_children == shape->n_children;
    for (int i = 0; is_same && i < want->n_dims; i++) {
        const struct node *size = child(pickle, shape, (size_t)i),
                          *stride = child(pickle, strides, (size_t)i);
        is_same = size->type == NODE_INT && size->number == want->shape[i] && stride->type == NODE_INT &&
                  stride->number >= 0 && stride->number < INT32_MAX;
        layout->shape[i] = (size_t)want->shape[i];
        layout->stride[i] = is_same ? (size_t)stride->number : 0;
    }
    if (!is_same || tensor->number < 0 || tensor->number >= INT32_MAX)
        return fault_set(why, FAULT_WEIGHTS,
                         "tensor '%s' of checkpoint '%s' has another shape than the network's", want->name,
                         pickle->file);
    layout->rank = want->n_dims;
    layout->first = layout->last = (size_t)tensor->number;
    for (int i = 0; i < layout->rank; i++)
        layout->last += (layout->shape[i] - 1) * layout->stride[i];
    return 0;
}

static int copy_tensor(struct archive *archive, const struct pickle *pickle, const struct node *tensor,
                       const struct net_tensor *want, float *out, struct fault_note *why)
{
    const struct node *storage = &pickle->nodes[tensor->storage];
    enum dtype dtype = (enum dtype)storage->number;
    size_t bytes = dtype == DTYPE_F64 ? 8 : dtype == DTYPE_F32 ? 4 : 2;
    char prefix[NAME_SIZE + 8], key[NAME_SIZE];
    struct layout layout = {0};
    struct span span = {0};
    int found;
    int rc = lay_out(pickle, tensor, want, &layout, why);
    if (rc != 0)
        return rc;
    if (dtype == DTYPE_NONE)
        return fault_set(why, FAULT_WEIGHTS,
                         "tensor '%s' of checkpoint '%s' is not float32, float16, bfloat16 or float64",
                         want->name, archive->file);
    snprintf(prefix, sizeof prefix, "%sdata/", archive->prefix);
    snprintf(key, sizeof key, "%.*s", (int)(storage->n_text < sizeof key ? storage->n_text : sizeof key - 1),
             storage->text);
    rc = find_entry(archive, prefix, key, &span, &found, why);
    if (rc != 0)
        return rc;
    if (!found || layout.last >= span.size / bytes)
        return fault_set(why, FAULT_WEIGHTS, "tensor '%s' of checkpoint '%s' lies outside its storage",
                         want->name, archive->file);
    size_t index[MAX_RANK] = {0};
    for (size_t i = 0; i < want->count; i++) {
        size_t at = layout.first;
        for (int k = 0; k < layout.rank; k++)
            at += index[k] * layout.stride[k];
        out[i] = (float)element(span.data, dtype, at);
        if (!isfinite(out[i]))
            return fault_set(why, FAULT_WEIGHTS,
                             "tensor '%s' of checkpoint '%s' holds a value that is not finite", want->name,
                             archive->file);
        for (int k = layout.rank - 1; k >= 0 && ++index[k] == layout.shape[k]; k--)
            index[k] = 0;
    }
    return 0;
}

static int copy_all(struct archive *archive, const struct pickle *pickle, const struct net *net,
                    float *values, struct fault_note *why)
{
    const struct node *dict = find_state_dict(pickle, net);
    const struct node *tensors[NET_MAX_TENSORS] = {0};
    char unknown[200] = "", missing[200] = "";
    if (dict == NULL)
        return fault_set(why, FAULT_WEIGHTS, "checkpoint '%s' holds no tensor of this network, such as '%s'",
                         archive->file, net->tensors[0].name);
    for (size_t k = 0; k + 1 < dict->n_children; k += 2) {
        const struct node *key = child(pickle, dict, k), *value = child(pickle, dict, k + 1);
        int at = tensor_of(net, key);
        if (value->type == NODE_TENSOR && at >= 0)
            tensors[at] = value;
        else if (value->type == NODE_TENSOR)
            add_name(unknown, sizeof unknown, key->type == NODE_TEXT ? key->text : "?",
                     key->type == NODE_TEXT ? key->n_text : 1);
    }
    for (int i = 0; i < net->n_tensors; i++)
        if (tensors[i] == NULL)
            add_name(missing, sizeof missing, net->tensors[i].name, strlen(net->tensors[i].name));
    if (unknown[0] != '\0' || missing[0] != '\0')
        return fault_set(why, FAULT_WEIGHTS,
                         "checkpoint '%s' is not this network's: missing: %s; unknown: %s", archive->file,
                         missing[0] != '\0' ? missing : "none", unknown[0] != '\0' ? unknown : "none");
    int rc = 0;
    for (int i = 0; rc == 0 && i < net->n_tensors && tensors[i] != NULL; i++)
        rc = copy_tensor(archive, pickle, tensors[i], &net->tensors[i], values + net->tensors[i].offset, why);
    return rc;
}

int torchfile_parse(const void *data, size_t size, const char *name, const struct net *net, float *parameters,
                    struct fault_note *why)
{
    struct archive archive = {.data = data, .size = size, .file = name};
    struct pickle pickle = {.file = name, .why = why};
    struct span span = {0};
    int found = 0, rc;
    if (!torchfile_is(data, size))
        return fault_set(why, FAULT_WEIGHTS,
                         "'%s' is no zip archive: no PyTorch checkpoint, or one of before PyTorch 1.6", name);
    float *values = malloc(net->n_parameters * sizeof *values);
    if (values == NULL)
        return fault_set(why, FAULT_NO_MEMORY, "no memory to read checkpoint '%s'", name);
    rc = find_directory(&archive, why);
    if (rc == 0)
        rc = find_entry(&archive, NULL, "data.pkl", &span, &found, why);
    if (rc == 0 && !found)
        rc = fault_set(why, FAULT_WEIGHTS, "'%s' is a zip archive without data.pkl: no PyTorch checkpoint",
                       name);
    if (rc == 0) {
        pickle.at = span.data;
        pickle.end = span.data + span.size;
        rc = run(&pickle);
    }
    if (rc == 0)
        rc = copy_all(&archive, &pickle, net, values, why);
    if (rc == 0)
        memcpy(parameters, values, net->n_parameters * sizeof *values);
    pickle_done(&pickle);
    free(values);
    return rc;
}

// --------------------------------------------------------------------------------------------- writing

struct zip {
    FILE *out, *directory;
    size_t n_bytes, n_entries;
};

static void put_number(FILE *out, uint32_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        fputc((int)(value >> (8 * i) & 255), out);
}

// What local header and directory have in common: from the version needed to the name's length.
static void put_common(FILE *out, uint32_t checksum, size_t size, const char *name)
{
    put_number(out, 10, 2);
    put_number(out, 0, 2); // flags
    put_number(out, 0, 2); // stored
    put_number(out, 0, 2);
    put_number(out, 33, 2); // 1980-01-01: the same bytes for the same weights
    put_number(out, checksum, 4);
    put_number(out, (uint32_t)size, 4);
    put_number(out, (uint32_t)size, 4);
    put_number(out, (uint32_t)strlen(name), 2);
    put_number(out, 0, 2); // extra
}

static void put_entry(struct zip *zip, const char *name, const void *data, size_t size)
{
    uint32_t checksum = (uint32_t)crc32_z(0, data, size);
    put_number(zip->out, local_mark, 4);
    put_common(zip->out, checksum, size, name);
    fputs(name, zip->out);
    fwrite(data, 1, size, zip->out);
    put_number(zip->directory, central_mark, 4);
    put_number(zip->directory, 10, 2);
    put_common(zip->directory, checksum, size, name);
    put_number(zip->directory, 0, 2); // comment
    put_number(zip->directory, 0, 2); // disk
    put_number(zip->directory, 0, 2); // attributes
    put_number(zip->directory, 0, 4);
    put_number(zip->directory, (uint32_t)zip->n_bytes, 4);
    fputs(name, zip->directory);
    zip->n_bytes += LOCAL_BYTES + strlen(name) + size;
    zip->n_entries++;
}

static void put_text(FILE *out, const char *text)
{
    fputc('X', out);
    put_number(out, (uint32_t)strlen(text), 4);
    fputs(text, out);
}

static void put_int(FILE *out, size_t value)
{
    fputc('J', out);
    put_number(out, (uint32_t)value, 4);
}

static void put_tensor(FILE *out, const struct net_tensor *tensor, int number)
{
    char key[16];
    size_t stride = tensor->count;
    snprintf(key, sizeof key, "%d", number);
    put_text(out, tensor->name);
    fputs("ctorch._utils\n_rebuild_tensor_v2\n((", out);
    put_text(out, "storage");
    fputs("ctorch\nFloatStorage\n", out);
    put_text(out, key);
    put_text(out, "cpu");
    put_int(out, tensor->count);
    fputs("tQ", out);
    put_int(out, 0);
    fputc('(', out);
    for (int i = 0; i < tensor->n_dims; i++)
        put_int(out, (size_t)tensor->shape[i]);
    fputs("t(", out);
    for (int i = 0; i < tensor->n_dims; i++) {
        stride /= (size_t)tensor->shape[i];
        put_int(out, stride);
    }
    fputc('t', out);
    fputc(0x89, out); // needs no gradient
    fputs("ccollections\nOrderedDict\n)RtR", out);
}

static void put_pickle(FILE *out, const struct net *net)
{
    fputs("\x80\x02}(", out);
    for (int i = 0; i < net->n_tensors; i++)
        put_tensor(out, &net->tensors[i], i);
    fputs("u.", out);
}

// Everything but the end of the archive, into zip->out and zip->directory.
static int put_archive(struct zip *zip, const struct net *net, const float *parameters)
{
    char *pickle = NULL, name[32];
    size_t size = 0;
    FILE *out = open_memstream(&pickle, &size);
    if (out == NULL)
        return 0;
    put_pickle(out, net);
    int ok = fclose(out) == 0;
    if (ok)
        put_entry(zip, "archive/data.pkl", pickle, size);
    free(pickle);
    for (int i = 0; ok && i < net->n_tensors; i++) {
        const struct net_tensor *tensor = &net->tensors[i];
        unsigned char *bytes = malloc(tensor->count * 4);
        ok = bytes != NULL;
        for (size_t k = 0; ok && k < tensor->count; k++) {
            uint32_t bits;
            memcpy(&bits, &parameters[tensor->offset + k], sizeof bits);
            for (int b = 0; b < 4; b++)
                bytes[4 * k + (size_t)b] = (unsigned char)(bits >> (8 * b));
        }
        snprintf(name, sizeof name, "archive/data/%d", i);
        if (ok)
            put_entry(zip, name, bytes, tensor->count * 4);
        free(bytes);
    }
    if (ok)
        put_entry(zip, "archive/version", "3\n", 2);
    return ok;
}

int torchfile_save(const char *path, const struct net *net, const float *parameters, struct fault_note *why)
{
    char *file = NULL, *directory = NULL;
    size_t file_bytes = 0, directory_bytes = 0;
    struct zip zip = {.out = open_memstream(&file, &file_bytes),
                      .directory = open_memstream(&directory, &directory_bytes)};
    int ok = zip.out != NULL && zip.directory != NULL && put_archive(&zip, net, parameters);
    if (zip.directory != NULL && fclose(zip.directory) != 0)
        ok = 0;
    if (ok) {
        fwrite(directory, 1, directory_bytes, zip.out);
        put_number(zip.out, end_mark, 4);
        put_number(zip.out, 0, 4); // disks
        put_number(zip.out, (uint32_t)zip.n_entries, 2);
        put_number(zip.out, (uint32_t)zip.n_entries, 2);
        put_number(zip.out, (uint32_t)directory_bytes, 4);
        put_number(zip.out, (uint32_t)zip.n_bytes, 4);
        put_number(zip.out, 0, 2); // comment
    }
    if (zip.out != NULL && (ferror(zip.out) || fclose(zip.out) != 0))
        ok = 0;
    int rc = ok ? file_write_atomic(path, file, file_bytes, why)
                : fault_set(why, FAULT_NO_MEMORY, "no memory to write checkpoint '%s'", path);
    free(directory);
    free(file);
    return rc;
}
