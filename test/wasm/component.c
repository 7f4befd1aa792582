#include "component.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi.h>
#include <wasm.h>
#include <wasmtime.h>
#include <wasmtime/component.h>

typedef wasmtime_component_val_t val;
typedef wasmtime_component_valrecord_entry_t entry;

struct oracle {
	wasm_engine_t *engine;
	wasmtime_component_t *component;
	wasmtime_component_linker_t *linker;
};

// A text grows.
typedef struct {
	char *b;
	size_t n, cap;
} text;

static void put(text *t, const char *s, size_t n) {
	if (t->n + n + 1 > t->cap) {
		t->cap = 2 * (t->n + n + 64);
		t->b = realloc(t->b, t->cap);
		if (!t->b) abort();
	}
	memcpy(t->b + t->n, s, n);
	t->n += n;
	t->b[t->n] = 0;
}

static void puts_text(text *t, const char *s) { put(t, s, strlen(s)); }

static void hex(text *t, const unsigned char *b, size_t n) {
	char h[3];
	puts_text(t, "'");
	for (size_t i = 0; i < n; i++) {
		snprintf(h, sizeof h, "%02x", b[i]);
		put(t, h, 2);
	}
	puts_text(t, "'");
}

static char *failed(wasmtime_error_t *e) {
	wasm_byte_vec_t m;
	wasmtime_error_message(e, &m);
	text t = {0};
	put(&t, m.data, m.size);
	wasm_byte_vec_delete(&m);
	wasmtime_error_delete(e);
	return t.b;
}

oracle *oracle_new(const unsigned char *wasm, size_t n, char **msg) {
	oracle *o = calloc(1, sizeof *o);
	wasm_config_t *c = wasm_config_new();
	wasmtime_config_wasm_component_model_set(c, true);
	o->engine = wasm_engine_new_with_config(c);
	o->linker = wasmtime_component_linker_new(o->engine);
	wasmtime_error_t *e = wasmtime_component_linker_add_wasip2(o->linker);
	if (!e) e = wasmtime_component_new(o->engine, wasm, n, &o->component);
	if (e) {
		*msg = failed(e);
		oracle_delete(o);
		return NULL;
	}
	return o;
}

void oracle_delete(oracle *o) {
	if (o->component) wasmtime_component_delete(o->component);
	wasmtime_component_linker_delete(o->linker);
	wasm_engine_delete(o->engine);
	free(o);
}

static val string(const unsigned char *s, size_t n) {
	val v = {.kind = WASMTIME_COMPONENT_STRING};
	wasm_byte_vec_new(&v.of.string, n, (const char *)s);
	return v;
}

static entry named(const char *name, val v) {
	entry e;
	wasm_byte_vec_new(&e.name, strlen(name), name);
	e.val = v;
	return e;
}

static val request(const unsigned char *s, const size_t *n, size_t headers, uint64_t now) {
	val r = {.kind = WASMTIME_COMPONENT_RECORD}, b = {.kind = WASMTIME_COMPONENT_LIST}, hs = {.kind = WASMTIME_COMPONENT_LIST};
	wasmtime_component_valrecord_new_uninit(&r.of.record, 7);
	entry *e = r.of.record.data;
	static const char *names[] = {"method", "path", "query"};
	for (int i = 0; i < 3; s += *n++, i++) e[i] = named(names[i], string(s, *n));
	wasmtime_component_vallist_new_uninit(&b.of.list, *n);
	for (size_t i = 0; i < *n; i++) b.of.list.data[i] = (val){.kind = WASMTIME_COMPONENT_U8, .of.u8 = s[i]};
	s += *n++;
	e[5] = named("request-id", string(s, *n));
	s += *n++;
	wasmtime_component_vallist_new_uninit(&hs.of.list, headers);
	for (size_t i = 0; i < headers; i++) {
		val h = {.kind = WASMTIME_COMPONENT_RECORD};
		wasmtime_component_valrecord_new_uninit(&h.of.record, 2);
		h.of.record.data[0] = named("name", string(s, *n));
		s += *n++;
		h.of.record.data[1] = named("value", string(s, *n));
		s += *n++;
		hs.of.list.data[i] = h;
	}
	e[3] = named("headers", hs);
	e[4] = named("body", b);
	e[6] = named("now-epoch-ms", (val){.kind = WASMTIME_COMPONENT_U64, .of.u64 = now});
	return r;
}

static void write_val(text *t, const val *v) {
	char number[32];
	switch (v->kind) {
	case WASMTIME_COMPONENT_U8:
		snprintf(number, sizeof number, "%u", v->of.u8);
		puts_text(t, number);
		break;
	case WASMTIME_COMPONENT_U16:
		snprintf(number, sizeof number, "%u", v->of.u16);
		puts_text(t, number);
		break;
	case WASMTIME_COMPONENT_STRING:
		hex(t, (unsigned char *)v->of.string.data, v->of.string.size);
		break;
	case WASMTIME_COMPONENT_LIST:
		if (v->of.list.size && v->of.list.data[0].kind == WASMTIME_COMPONENT_U8) {
			unsigned char *b = malloc(v->of.list.size);
			for (size_t i = 0; i < v->of.list.size; i++) b[i] = v->of.list.data[i].of.u8;
			hex(t, b, v->of.list.size);
			free(b);
			break;
		}
		puts_text(t, "[");
		for (size_t i = 0; i < v->of.list.size; i++) {
			if (i) puts_text(t, " ");
			write_val(t, &v->of.list.data[i]);
		}
		puts_text(t, "]");
		break;
	case WASMTIME_COMPONENT_RECORD:
		puts_text(t, "{");
		for (size_t i = 0; i < v->of.record.size; i++) {
			if (i) puts_text(t, " ");
			write_val(t, &v->of.record.data[i].val);
		}
		puts_text(t, "}");
		break;
	case WASMTIME_COMPONENT_OPTION:
		if (!v->of.option) {
			puts_text(t, "none");
			break;
		}
		puts_text(t, "some(");
		write_val(t, v->of.option);
		puts_text(t, ")");
		break;
	case WASMTIME_COMPONENT_VARIANT:
		put(t, v->of.variant.discriminant.data, v->of.variant.discriminant.size);
		if (v->of.variant.val) {
			puts_text(t, "(");
			write_val(t, v->of.variant.val);
			puts_text(t, ")");
		}
		break;
	default:
		snprintf(number, sizeof number, "?%d", v->kind);
		puts_text(t, number);
	}
}

char *oracle_call(oracle *o, const char *iface, const char *name, const unsigned char *texts, const size_t *sizes, size_t headers, uint64_t now, char **msg) {
	wasmtime_store_t *store = wasmtime_store_new(o->engine, NULL, NULL);
	wasmtime_context_t *cx = wasmtime_store_context(store);
	wasmtime_component_instance_t in;
	wasmtime_component_func_t f;
	wasmtime_component_export_index_t *outer = NULL, *inner = NULL;
	text t = {0};
	*msg = NULL;
	wasmtime_error_t *e = wasmtime_context_set_wasi(cx, wasi_config_new());
	if (!e) e = wasmtime_component_linker_instantiate(o->linker, cx, o->component, &in);
	if (e) {
		*msg = failed(e);
		goto done;
	}
	outer = wasmtime_component_get_export_index(o->component, NULL, iface, strlen(iface));
	if (outer) inner = wasmtime_component_get_export_index(o->component, outer, name, strlen(name));
	if (!inner || !wasmtime_component_instance_get_func(&in, cx, inner, &f)) {
		*msg = strdup("it exports no such function");
		goto done;
	}
	val arg = request(texts, sizes, headers, now), res = {0}; // what stands there is freed
	e = wasmtime_component_func_call(&f, cx, &arg, 1, &res, 1);
	wasmtime_component_val_delete(&arg);
	if (e) {
		*msg = failed(e);
		goto done;
	}
	write_val(&t, &res);
	wasmtime_component_val_delete(&res);
done:
	if (inner) wasmtime_component_export_index_delete(inner);
	if (outer) wasmtime_component_export_index_delete(outer);
	wasmtime_store_delete(store);
	return t.b;
}
