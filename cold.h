/* Included before each file that mypyc has written (see setup.py): the functions that report an error are cold, so the
 * compiler moves the blocks that call them, and what follows only these, out of the way of the code that runs.
 * A message touches more code than the first-level cache holds; what lies between costs as if it ran.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__GNUC__)
#define SERPY_COLD __attribute__((cold))
#else
#define SERPY_COLD
#endif

void CPy_AddTraceback(const char *file, const char *function, int line, PyObject *globals) SERPY_COLD;
void CPy_TypeErrorTraceback(const char *file, const char *function, int line, PyObject *globals, const char *expected,
                            PyObject *value) SERPY_COLD;
void CPy_AttributeError(const char *file, const char *function, const char *class_name, const char *attribute, int line,
                        PyObject *globals) SERPY_COLD;
void CPy_TypeError(const char *expected, PyObject *value) SERPY_COLD;
void CPy_Raise(PyObject *exception) SERPY_COLD;
void CPyError_OutOfMemory(void) SERPY_COLD;
PyAPI_FUNC(void) PyErr_SetString(PyObject *exception, const char *text) SERPY_COLD;
