"""Run llama.cpp's own HTTP server, which the package xllamacpp has inside.

    python server.py MODEL.gguf PORT NAME [embedding]

It serves until SIGTERM, and ends when its standard input does: it cannot
outlive whoever started it.
"""

import os
import signal
import sys
import threading

import xllamacpp

SLOTS = 2


def main(model, port, name, *kind):
    p = xllamacpp.CommonParams()
    p.model.path, p.model_alias = model, {name}
    p.hostnames, p.port = ["127.0.0.1"], int(port)
    p.n_parallel, p.n_ctx = SLOTS, 32768 * SLOTS
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
    p.n_threads_http = 8
    p.n_gpu_layers = 0
    p.endpoint_metrics = p.endpoint_slots = p.endpoint_props = True
    p.ui, p.offline, p.warmup, p.use_jinja = False, True, False, True
    if "embedding" in kind:
        p.embedding = True
        p.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(p)  # returns when it listens; kept, or it ends
    print("listening", server.listening_address, flush=True)

    # The server's threads do not heed the interpreter's end.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
