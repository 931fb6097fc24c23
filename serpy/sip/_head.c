/* The head of a SIP message in one pass, and one address, for Python code that reads the same where this is not certain.

   learn(spelled, canonical, bit), before the first read: a name or compact form, both in lower case, with its bit of lines.BITS
   read(data) -> the tuple that native.py calls Head, or None
   address(line) -> (display name, URI, tag) of the line of From, To or Route, or None

   None says only that this code is not certain: of what is folded, ends in a bare LF, is not ASCII, odd or wrong. The Python
   code decides then and words the error. TypeError, ValueError (of learn), MemoryError and, with SERPY_PURE_HEAD=1, ImportError
   are all that is raised. Nothing is read that is not inside the message, nothing is allocated but the result, and there is no
   state but the names. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_MESSAGE 65535 /* as in limits.py */
#define LONGEST_HEAD 16384    /* LINE_MAX there: then no line is too long */
#define MOST_LINES 255
#define LONGEST_NAME 128
#define LONGEST_METHOD 64
#define MOST_HOPS 255
#define LAST_PORT 65535
#define LONGEST_URI 128 /* as in plain.py */
#define LONGEST_LABEL 63

#define CALL_ID 4u /* as in lines.py */
#define CSEQ 8u
#define MAX_FORWARDS 16u
#define CONTENT_LENGTH 32u
#define VIA 8192u

#define KNOWN_MAX 31 /* characters of a known name */
#define SLOTS 256    /* at most half of them are in use */

/* What a character is; none beyond ASCII is any of it. */
#define DIGIT 1u
#define CAPITAL 2u
#define ALNUM 4u
#define TOKEN 8u
#define IN_HOST 16u
#define IN_USER 32u
#define IN_PARAMS 64u
#define IN_BRANCH 128u
#define VISIBLE 256u

typedef unsigned char byte;

struct name {
    PyObject *canonical; /* NULL: nothing here */
    unsigned bit;
    byte size;
    byte text[KNOWN_MAX];
};

struct span {
    size_t start, end;
};

struct line {
    struct span all;
    size_t value;            /* behind the colon */
    const struct name *name; /* NULL: not a known one */
};

struct head {
    const byte *data;
    size_t size;
    struct span start_line, method, rest; /* the rest: a URI or a reason */
    struct span body, call_id, cseq_method, transport, host, branch;
    long status, cseq, hops, length, port, rport;
    unsigned seen, twice;
    size_t count;
    struct line lines[MOST_LINES];
};

static struct name known[SLOTS];
static size_t known_count;
static uint16_t kinds[256];
static byte lowered[256]; /* each token character in lower case, 0 for others */

/* -- reading ------------------------------------------------------------------------------------------------------- */

/* Where the characters of *kind* that begin at *at* end. */
static inline size_t
skip(const byte *data, size_t at, size_t end, unsigned kind)
{
    while (at < end && kinds[data[at]] & kind)
        at++;
    return at;
}

static inline int
is_at(const byte *data, size_t at, size_t end, const char *text, size_t size)
{
    return end - at >= size && memcmp(data + at, text, size) == 0;
}
#define IS_AT(data, at, end, text) is_at(data, at, end, text, sizeof text - 1)

/* Where the line that goes through *at* ends, which is where its CRLF stands; 0 when there is none, or a byte that is neither
   printable ASCII nor a tab. */
static size_t
line_end(const byte *data, size_t at, size_t size)
{
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t eight;
    for (; at + 8 <= size; at += 8) { /* while none of eight is below a space or beyond ASCII */
        memcpy(&eight, data + at, 8);
        if ((((eight - ones * 0x20) & ~eight) | eight) & (ones * 0x80))
            break;
    }
    while (at < size && ((data[at] >= 0x20 && data[at] < 0x80) || data[at] == '\t'))
        at++;
    return at + 1 < size && data[at] == '\r' && data[at + 1] == '\n' ? at : 0;
}

/* The number of at most *most* (nine or fewer) digits that begins at *at*, which moves behind it; -1 without a digit. */
static long
digits(const byte *data, size_t *at, size_t end, size_t most)
{
    size_t stop = end - *at > most ? *at + most : end;
    size_t here = *at;
    long number = 0;
    for (; here < stop && kinds[data[here]] & DIGIT; here++)
        number = number * 10 + (data[here] - '0');
    if (here == *at)
        return -1;
    *at = here;
    return number;
}

/* Where the value of *line* begins, behind one space at most. */
static size_t
value_start(const byte *data, const struct line *line)
{
    return line->value < line->all.end && data[line->value] == ' ' ? line->value + 1 : line->value;
}

/* The number that is the whole value, behind any spaces (SIPp pads its lengths); -1 for anything else. */
static long
plain_number(const byte *data, const struct line *line)
{
    size_t at = line->value;
    while (at < line->all.end && data[at] == ' ')
        at++;
    long number = digits(data, &at, line->all.end, 9);
    return at == line->all.end ? number : -1;
}

/* ``METHOD uri SIP/2.0`` or ``SIP/2.0 200 reason``. */
static int
read_start_line(struct head *head)
{
    const byte *data = head->data;
    size_t end = head->start_line.end;
    size_t at = 8;
    if (end >= 12 && IS_AT(data, 0, end, "SIP/2.0 ")) {
        head->status = digits(data, &at, end, 3);
        head->rest = (struct span){12, end};
        return at == 11 && data[at] == ' ' && head->status >= 100 && head->status <= 699;
    }
    at = skip(data, 0, end, CAPITAL);
    if (at == 0 || at > LONGEST_METHOD || end < at + 10 || data[at] != ' ' || !IS_AT(data, end - 8, end, " SIP/2.0"))
        return 0;
    head->method.end = at;
    head->rest = (struct span){at + 1, end - 8};
    return skip(data, head->rest.start, head->rest.end, VISIBLE) == head->rest.end;
}

/* Where the name *text* of *size* bytes is looked for first; with these factors hardly two of the known names meet. */
static size_t
slot_of(const byte *text, size_t size)
{
    return (size * 51 + text[0] * 53u + text[size - 1] * 30u + text[size / 2]) % SLOTS;
}

/* The name with its colon at the start of *line*. */
static int
read_name(const byte *data, size_t size, struct line *line)
{
    byte text[LONGEST_NAME];
    const byte *from = data + line->all.start;
    size_t most = size - line->all.start;
    size_t length = 0;
    byte c;
    if (most > LONGEST_NAME)
        most = LONGEST_NAME;
    while (length < most && (c = lowered[from[length]]) != 0)
        text[length++] = c;
    line->value = line->all.start + length + 1;
    if (length == 0 || line->value > size || from[length] != ':')
        return 0;
    size_t slot = slot_of(text, length);
    while (known[slot].canonical != NULL && (known[slot].size != length || memcmp(known[slot].text, text, length) != 0))
        slot = (slot + 1) % SLOTS;
    line->name = known[slot].canonical == NULL ? NULL : &known[slot];
    return 1;
}

/* ``123 INVITE`` */
static void
read_cseq(struct head *head, const struct line *line)
{
    size_t at = value_start(head->data, line);
    size_t end = line->all.end;
    long number = digits(head->data, &at, end, 9);
    if (number < 0 || end - at < 2 || head->data[at] != ' ' || skip(head->data, at + 1, end, CAPITAL) != end)
        return;
    head->cseq = number;
    head->cseq_method = (struct span){at + 1, end};
}

/* ``Via: SIP/2.0/UDP host:port;branch=value``, maybe with ``;rport``. */
static void
read_via(struct head *head, const struct line *line)
{
    const byte *data = head->data;
    size_t start = line->all.start, end = line->all.end;
    if (!IS_AT(data, start, end, "Via: SIP/2.0/"))
        return;
    size_t transport = start + 13, host = start + 17;
    if (!IS_AT(data, transport, end, "UDP ") && !IS_AT(data, transport, end, "TCP ") && !IS_AT(data, transport, end, "TLS "))
        return;
    size_t host_end = skip(data, host, end, IN_HOST);
    size_t at = host_end;
    long port = 0;
    if (at < end && data[at] == ':') {
        at++;
        if (at < end && data[at] == '0')
            return;
        port = digits(data, &at, end, 5);
        if (port <= 0 || port > LAST_PORT)
            return;
    }
    if (host == host_end || !IS_AT(data, at, end, ";branch="))
        return;
    size_t branch = at + 8;
    at = skip(data, branch, end, IN_BRANCH);
    if (at == branch || (at < end && (end - at != 6 || !IS_AT(data, at, end, ";rport"))))
        return;
    head->transport = (struct span){transport, transport + 3};
    head->host = (struct span){host, host_end};
    head->branch = (struct span){branch, at};
    head->port = port;
    head->rport = at < end ? 0 : -1;
}

/* What *line*, the first of its name, says; 0 when the message cannot be read without it. */
static int
read_value(struct head *head, const struct line *line)
{
    size_t start;
    switch (line->name->bit) {
    case VIA:
        if (head->count == 1)
            read_via(head, line);
        break;
    case CALL_ID:
        start = value_start(head->data, line);
        if (skip(head->data, start, line->all.end, VISIBLE) == line->all.end)
            head->call_id = (struct span){start, line->all.end};
        break;
    case CSEQ:
        read_cseq(head, line);
        break;
    case MAX_FORWARDS:
        head->hops = plain_number(head->data, line);
        if (head->hops > MOST_HOPS)
            head->hops = -1;
        break;
    case CONTENT_LENGTH:
        head->length = plain_number(head->data, line);
        return head->length >= 0;
    default:
        break;
    }
    return 1;
}

static int
read_line(struct head *head, struct line *line, size_t at)
{
    line->all.start = at;
    if (!read_name(head->data, head->size, line))
        return 0;
    line->all.end = line_end(head->data, line->value, head->size);
    if (line->all.end == 0)
        return 0;
    unsigned bit = line->name == NULL ? 0 : line->name->bit;
    if (bit == 0)
        return 1;
    if (head->seen & bit) {
        head->twice |= bit;
        return bit != CONTENT_LENGTH;
    }
    head->seen |= bit;
    return read_value(head, line);
}

/* Everything; 0 when the Python code has to look. */
static int
read_head(struct head *head)
{
    const byte *data = head->data;
    size_t end = line_end(data, 0, head->size);
    head->start_line.end = end;
    if (end == 0 || !read_start_line(head))
        return 0;
    for (; !IS_AT(data, end + 2, head->size, "\r\n"); end = head->lines[head->count - 1].all.end)
        if (head->count == MOST_LINES || !read_line(head, &head->lines[head->count++], end + 2))
            return 0;
    head->body = (struct span){end + 4, head->size};
    if (end > LONGEST_HEAD || head->length > (long)(head->size - head->body.start))
        return 0;
    if (head->length >= 0)
        head->body.end = head->body.start + (size_t)head->length;
    return 1;
}

/* -- telling ------------------------------------------------------------------------------------------------------- */

/* The characters of *text*, which is ASCII. */
static byte *
characters(PyObject *text)
{
    return (byte *)((PyASCIIObject *)text + 1);
}

static PyObject *
text_of(const byte *data, struct span span)
{
    PyObject *text = PyUnicode_New((Py_ssize_t)(span.end - span.start), 127);
    if (text != NULL)
        memcpy(characters(text), data + span.start, span.end - span.start);
    return text;
}

static PyObject *
name_of(const byte *data, const struct line *line)
{
    if (line->name != NULL)
        return Py_NewRef(line->name->canonical);
    PyObject *text = text_of(data, (struct span){line->all.start, line->value - 1});
    if (text != NULL) /* nobody else has seen it yet */
        for (Py_ssize_t at = 0; at < PyUnicode_GET_LENGTH(text); at++)
            characters(text)[at] = lowered[characters(text)[at]];
    return text;
}

#define FIELDS 20

static PyObject *
result_of(const struct head *head)
{
    const byte *data = head->data;
    PyObject *result = PyTuple_New(FIELDS);
    PyObject *names = PyList_New((Py_ssize_t)head->count);
    PyObject *lines = PyList_New((Py_ssize_t)head->count);
    int good = result != NULL && names != NULL && lines != NULL;
    for (size_t at = 0; good && at < head->count; at++) {
        PyObject *name = name_of(data, &head->lines[at]);
        PyObject *line = text_of(data, head->lines[at].all);
        PyList_SET_ITEM(names, (Py_ssize_t)at, name);
        PyList_SET_ITEM(lines, (Py_ssize_t)at, line);
        good = name != NULL && line != NULL;
    }
    if (!good) {
        Py_XDECREF(result);
        Py_XDECREF(names);
        Py_XDECREF(lines);
        return NULL;
    }
    PyObject *fields[FIELDS] = {
        text_of(data, head->start_line),
        names,
        lines,
        PyBytes_FromStringAndSize((const char *)data + head->body.start, (Py_ssize_t)(head->body.end - head->body.start)),
        text_of(data, head->method),
        text_of(data, head->rest),
        PyLong_FromLong(head->status),
        PyLong_FromLong((long)head->seen),
        PyLong_FromLong((long)head->twice),
        text_of(data, head->call_id),
        PyLong_FromLong(head->cseq),
        text_of(data, head->cseq_method),
        PyLong_FromLong(head->hops),
        PyLong_FromLong(head->length),
        PyLong_FromLong((long)head->body.end),
        text_of(data, head->transport),
        text_of(data, head->host),
        PyLong_FromLong(head->port),
        text_of(data, head->branch),
        PyLong_FromLong(head->rport),
    };
    for (Py_ssize_t at = 0; at < FIELDS; at++) {
        PyTuple_SET_ITEM(result, at, fields[at]);
        good &= fields[at] != NULL;
    }
    if (good)
        return result;
    Py_DECREF(result); /* with what is in it */
    return NULL;
}

static PyObject *
head_read(PyObject *Py_UNUSED(module), PyObject *message)
{
    struct head head; /* the lines are not cleared: those up to the count are written before they are read */

    if (!PyBytes_Check(message)) {
        PyErr_SetString(PyExc_TypeError, "read(data: bytes)");
        return NULL;
    }
    memset(&head, 0, offsetof(struct head, lines));
    head.data = (const byte *)PyBytes_AS_STRING(message);
    head.size = (size_t)PyBytes_GET_SIZE(message);
    head.length = head.hops = head.cseq = head.rport = -1;
    if (head.size > LONGEST_MESSAGE || !read_head(&head))
        Py_RETURN_NONE;
    return result_of(&head);
}

/* -- addresses ----------------------------------------------------------------------------------------------------- */

/* Where the host that begins at *at* ends; 0 for what is, maybe, none: as host_end of plain.py. */
static size_t
host_end(const byte *text, size_t at, size_t end)
{
    size_t label = at, dots = 0; /* where the last label begins */
    long number = 0;             /* what it says */
    int is_number = 1, is_address = 1;
    for (; at < end && kinds[text[at]] & IN_HOST; at++) {
        byte c = text[at];
        if (kinds[c] & DIGIT) {
            if (at > label && number == 0)
                is_address = 0; /* a leading zero */
            number = number * 10 + (c - '0');
        } else if (c == '.') {
            if (at == label || !(kinds[text[at - 1]] & ALNUM))
                return 0;
            is_address &= is_number && number <= 255;
            dots++;
            label = at + 1;
            number = 0;
            is_number = 1;
        } else {
            if (at == label && !(kinds[c] & ALNUM))
                return 0;
            is_number = 0;
        }
        if (at + 1 - label > LONGEST_LABEL || number > LAST_PORT)
            return 0;
    }
    if (at == label || !(kinds[text[at - 1]] & ALNUM))
        return 0;
    if (is_number)
        return is_address && dots == 3 && number <= 255 ? at : 0;
    return kinds[text[label]] & DIGIT ? 0 : at;
}

/* As is_plain_uri of plain.py. */
static int
is_plain_uri(const byte *text, struct span uri)
{
    size_t at = uri.start + 4, end = uri.end;
    if (end - uri.start > LONGEST_URI || !IS_AT(text, uri.start, end, "sip:"))
        return 0;
    size_t user_end = skip(text, at, end, IN_USER);
    if (user_end < end && text[user_end] == '@' && user_end > at)
        at = user_end + 1;
    at = host_end(text, at, end);
    if (at == 0)
        return 0;
    if (at < end && text[at] == ':') {
        at++;
        long port = digits(text, &at, end, 5);
        if (port <= 0 || port > LAST_PORT)
            return 0;
    }
    return at == end || (text[at] == ';' && skip(text, at, end, IN_PARAMS) == end);
}

/* True for a display name in quotes, without escapes, and a space behind it. */
static int
is_display(const byte *text, struct span display)
{
    size_t size = display.end - display.start;
    const byte *start = text + display.start;
    return size >= 2 && start[0] == '"' && start[size] == ' ' && memchr(start + 1, '"', size - 1) == start + size - 1 &&
           memchr(start, '\\', size) == NULL;
}

/* ``Name: "display" <uri>;tag=value``, with or without display name and tag. */
static PyObject *
head_address(PyObject *Py_UNUSED(module), PyObject *line)
{
    if (!PyUnicode_Check(line)) {
        PyErr_SetString(PyExc_TypeError, "address(line: str)");
        return NULL;
    }
    if (!PyUnicode_IS_COMPACT_ASCII(line))
        Py_RETURN_NONE;
    const byte *text = characters(line);
    size_t end = (size_t)PyUnicode_GET_LENGTH(line);
    const byte *left = memchr(text, '<', end);
    const byte *colon = left == NULL ? NULL : memchr(text, ':', (size_t)(left - text));
    const byte *right = left == NULL ? NULL : memchr(left, '>', end - (size_t)(left - text));
    if (colon == NULL || right == NULL || colon == text || colon[1] != ' ')
        Py_RETURN_NONE;
    struct span uri = {(size_t)(left - text) + 1, (size_t)(right - text)};
    struct span display = {(size_t)(colon - text) + 2, uri.start - 1};
    struct span tag = {uri.end + 1, end};
    if (display.end > display.start) {
        display.end--;
        if (!is_display(text, display))
            Py_RETURN_NONE;
    }
    if (tag.start < end) {
        if (!IS_AT(text, tag.start, end, ";tag="))
            Py_RETURN_NONE;
        tag.start += 5;
        if (tag.start == end || skip(text, tag.start, end, TOKEN) != end)
            Py_RETURN_NONE;
    }
    if (!is_plain_uri(text, uri))
        Py_RETURN_NONE;
    return Py_BuildValue("NNN", text_of(text, display), text_of(text, uri), text_of(text, tag));
}

/* -- names and characters ------------------------------------------------------------------------------------------ */

static PyObject *
head_learn(PyObject *Py_UNUSED(module), PyObject *args)
{
    const char *spelled;
    Py_ssize_t size;
    PyObject *canonical;
    unsigned bit;

    if (!PyArg_ParseTuple(args, "s#UI", &spelled, &size, &canonical, &bit))
        return NULL;
    if (size == 0 || size > KNOWN_MAX || known_count == SLOTS / 2) {
        PyErr_SetString(PyExc_ValueError, "no name, one that is too long, or one too many");
        return NULL;
    }
    size_t slot = slot_of((const byte *)spelled, (size_t)size);
    while (known[slot].canonical != NULL)
        slot = (slot + 1) % SLOTS;
    memcpy(known[slot].text, spelled, (size_t)size);
    known[slot].size = (byte)size;
    known[slot].bit = bit;
    Py_INCREF(canonical);
    PyUnicode_InternInPlace(&canonical); /* is then the one that compiled code compares with */
    known[slot].canonical = canonical;
    known_count++;
    Py_RETURN_NONE;
}

static void
mark(const char *characters_of, unsigned kind)
{
    for (; *characters_of != 0; characters_of++)
        kinds[(byte)*characters_of] = (uint16_t)(kinds[(byte)*characters_of] | kind);
}

static void
learn_characters(void)
{
    const unsigned everywhere = ALNUM | TOKEN | IN_HOST | IN_USER | IN_PARAMS;
    mark("ABCDEFGHIJKLMNOPQRSTUVWXYZ", everywhere | CAPITAL);
    mark("abcdefghijklmnopqrstuvwxyz", everywhere);
    mark("0123456789", everywhere | DIGIT);
    mark("-.!%*_+`'~", TOKEN);
    mark("-_.", IN_HOST);
    mark("-_.!~*'()+=", IN_USER);
    mark("-_.=;", IN_PARAMS);
    for (unsigned c = 0x21; c < 0x80; c++)
        kinds[c] = (uint16_t)(kinds[c] | VISIBLE | (strchr("\",;", (int)c) == NULL ? IN_BRANCH : 0));
    for (unsigned c = 0; c < 0x80; c++)
        lowered[c] = (byte)(!(kinds[c] & TOKEN) ? 0 : kinds[c] & CAPITAL ? c | 0x20 : c);
}

static PyMethodDef functions[] = {
    {"address", head_address, METH_O, PyDoc_STR("address(line) -> (display, uri, tag) or None")},
    {"learn", head_learn, METH_VARARGS, PyDoc_STR("learn(spelled, canonical, bit) -> None")},
    {"read", head_read, METH_O, PyDoc_STR("read(data) -> a tuple or None")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "serpy.sip._head",
    .m_doc = PyDoc_STR("The head of a SIP message in one pass; see _head.c."),
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__head(void)
{
    const char *wanted = getenv("SERPY_PURE_HEAD");
    if (wanted != NULL && strcmp(wanted, "1") == 0) {
        PyErr_SetString(PyExc_ImportError, "SERPY_PURE_HEAD=1: heads are read in Python");
        return NULL;
    }
    learn_characters();
    return PyModule_Create(&definition);
}
