/* One datagram in, one datagram out: recvfrom and sendto for serpy.net.datagrams, whose Python twin answers the same.

   receive(fd, peers) -> (data, peers[key]), or (data, key) of a peer that is not in the dictionary, or -errno
   send(fd, data, host, port) -> 0 or -errno
   peer(key) -> (host, port)

   A key is the peer's address and port as they came from the network: 6 bytes (IPv4) or 18 (IPv6). Nothing here waits,
   looks up a name or raises for what the network does; TypeError, ValueError (of peer) and MemoryError are all there is. No state but the receive
   buffer, which the GIL protects: it is held throughout, since neither call can wait. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define LARGEST 65535 /* bytes of a datagram; what is longer (a jumbogram) is cut */
#define KEY_IPV4 6
#define KEY_IPV6 18
#define HOST_MAX 64 /* characters: more than any address */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static char buffer[LARGEST];

/* The fd of *number*, -1 (which the kernel calls EBADF) when it cannot be one. */
static int
fd_of(PyObject *number)
{
    int overflow = 0;
    long value = PyLong_AsLongAndOverflow(number, &overflow);
    return overflow || value < 0 || value > INT_MAX ? -1 : (int)value;
}

/* Write the key of *from*, of which the kernel says that it has *length* bytes, and return its size; 0: not of the internet. */
static Py_ssize_t
key_of(const union address *from, socklen_t length, char key[KEY_IPV6])
{
    if (length >= sizeof from->v4 && from->any.sa_family == AF_INET) {
        memcpy(key, &from->v4.sin_addr, 4);
        memcpy(key + 4, &from->v4.sin_port, 2);
        return KEY_IPV4;
    }
    if (length >= sizeof from->v6 && from->any.sa_family == AF_INET6) {
        memcpy(key, &from->v6.sin6_addr, 16);
        memcpy(key + 16, &from->v6.sin6_port, 2);
        return KEY_IPV6;
    }
    return 0;
}

/* Write the socket address of *host* and *port* and return its size; 0 when *host* is no address or *port* no port. */
static socklen_t
address_of(PyObject *host, PyObject *port, union address *to)
{
    int overflow = 0;
    long number = PyLong_AsLongAndOverflow(port, &overflow);
    if (overflow || number < 0 || number > 65535 || !PyUnicode_IS_COMPACT_ASCII(host))
        return 0;
    size_t length = (size_t)PyUnicode_GET_LENGTH(host);
    const char *text = (const char *)PyUnicode_1BYTE_DATA(host); /* ends in a NUL; another one inside would hide the rest */
    if (length > HOST_MAX || strlen(text) != length)
        return 0;
    memset(to, 0, sizeof *to);
    if (memchr(text, ':', length) != NULL) {
        to->v6.sin6_family = AF_INET6;
        to->v6.sin6_port = htons((uint16_t)number);
        return inet_pton(AF_INET6, text, &to->v6.sin6_addr) == 1 ? sizeof to->v6 : 0;
    }
    to->v4.sin_family = AF_INET;
    to->v4.sin_port = htons((uint16_t)number);
    return inet_pton(AF_INET, text, &to->v4.sin_addr) == 1 ? sizeof to->v4 : 0;
}

/* The tuple of what has come, the first *size* bytes of the buffer, and of what *peers* says about the key. */
static PyObject *
result_of(Py_ssize_t size, const char *key_bytes, Py_ssize_t key_size, PyObject *peers)
{
    PyObject *result = NULL;
    PyObject *peer = NULL;
    PyObject *data = PyBytes_FromStringAndSize(buffer, size); /* before anything that could let somebody else read */
    PyObject *key = PyBytes_FromStringAndSize(key_bytes, key_size);
    if (data == NULL || key == NULL)
        goto done;
    peer = PyDict_GetItemWithError(peers, key); /* borrowed */
    if (peer == NULL && PyErr_Occurred())
        goto done;
    result = PyTuple_New(2);
    if (result == NULL)
        goto done;
    if (peer == NULL)
        peer = key;
    Py_INCREF(peer);
    Py_INCREF(data);
    PyTuple_SET_ITEM(result, 0, data); /* takes the reference over */
    PyTuple_SET_ITEM(result, 1, peer);
done:
    Py_XDECREF(data);
    Py_XDECREF(key);
    return result;
}

static PyObject *
udp_receive(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    union address from;
    socklen_t length;
    ssize_t size;
    char key[KEY_IPV6];

    if (count != 2 || !PyLong_Check(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "receive(fd: int, peers: dict)");
        return NULL;
    }
    int fd = fd_of(args[0]);
    do {
        length = sizeof from;
        size = recvfrom(fd, buffer, sizeof buffer, MSG_DONTWAIT, &from.any, &length);
    } while (size < 0 && errno == EINTR);
    if (size < 0)
        return PyLong_FromLong(-errno);
    Py_ssize_t key_size = key_of(&from, length, key);
    if (key_size == 0)
        return PyLong_FromLong(-EAFNOSUPPORT);
    return result_of(size, key, key_size, args[1]);
}

static PyObject *
udp_send(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    union address to;
    ssize_t size;

    if (count != 4 || !PyLong_Check(args[0]) || !PyBytes_Check(args[1]) || !PyUnicode_Check(args[2]) ||
        !PyLong_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "send(fd: int, data: bytes, host: str, port: int)");
        return NULL;
    }
    socklen_t length = address_of(args[2], args[3], &to);
    if (length == 0)
        return PyLong_FromLong(-EINVAL);
    int fd = fd_of(args[0]);
    do {
        size = sendto(fd, PyBytes_AS_STRING(args[1]), (size_t)PyBytes_GET_SIZE(args[1]), MSG_DONTWAIT, &to.any, length);
    } while (size < 0 && errno == EINTR);
    return PyLong_FromLong(size < 0 ? -errno : 0);
}

/* Write *byte* in decimal and return where that ends: an address of IPv4 costs a tenth of what inet_ntop takes for it. */
static char *
decimal(char *at, unsigned char byte)
{
    if (byte >= 100)
        *at++ = (char)('0' + byte / 100);
    if (byte >= 10)
        *at++ = (char)('0' + byte / 10 % 10);
    *at++ = (char)('0' + byte % 10);
    return at;
}

static PyObject *
udp_peer(PyObject *Py_UNUSED(module), PyObject *key)
{
    char text[INET6_ADDRSTRLEN];
    char *end = text;

    if (!PyBytes_Check(key)) {
        PyErr_SetString(PyExc_TypeError, "peer(key: bytes)");
        return NULL;
    }
    Py_ssize_t size = PyBytes_GET_SIZE(key);
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(key);
    if (size == KEY_IPV4) {
        for (int at = 0; at < 4; at++) {
            if (at > 0)
                *end++ = '.';
            end = decimal(end, bytes[at]);
        }
    } else if (size == KEY_IPV6 && inet_ntop(AF_INET6, bytes, text, sizeof text) != NULL) {
        end += strlen(text);
    } else {
        PyErr_SetString(PyExc_ValueError, "a key has 6 or 18 bytes");
        return NULL;
    }
    return Py_BuildValue("s#i", text, (Py_ssize_t)(end - text), bytes[size - 2] << 8 | bytes[size - 1]);
}

#define FAST(function) ((PyCFunction)(void (*)(void))(function)) /* as METH_FASTCALL wants it */

static PyMethodDef functions[] = {
    {"receive", FAST(udp_receive), METH_FASTCALL, PyDoc_STR("receive(fd, peers) -> (data, flow or key) or -errno")},
    {"send", FAST(udp_send), METH_FASTCALL, PyDoc_STR("send(fd, data, host, port) -> 0 or -errno")},
    {"peer", udp_peer, METH_O, PyDoc_STR("peer(key) -> (host, port)")},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "serpy.net._udp",
    .m_doc = PyDoc_STR("Datagrams without what the socket module costs; see _udp.c."),
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__udp(void)
{
    return PyModule_Create(&definition);
}
