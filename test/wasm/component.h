// What wasmtime's C library is asked.

#include <stddef.h>
#include <stdint.h>

typedef struct oracle oracle;

// oracle_new compiles a component. It returns NULL and writes why to msg, which
// the caller frees.
oracle *oracle_new(const unsigned char *wasm, size_t n, char **msg);
void oracle_delete(oracle *o);

// oracle_call calls a function that takes a request: texts is its method, path,
// query, body, id, and its headers' names and values, one behind the other, of
// the sizes given. It returns what the function returned, as text, which the
// caller frees: numbers as they are, texts and lists of bytes in hexadecimal,
// [lists], {records}, none or some(option), case or case(variant).
char *oracle_call(oracle *o, const char *iface, const char *name, const unsigned char *texts, const size_t *sizes, size_t headers, uint64_t now, char **msg);
