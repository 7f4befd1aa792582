"""Make a tiny random llama model as a GGUF file, from gguf and numpy alone.

The weights are seeded noise and the vocabulary is byte-level BPE with a few
merges made by hand: what the model says is nonsense, but every prompt can be
tokenized, and it runs as fast as anything does.

    python tiny_gguf.py OUT.gguf
"""

import os
import sys

import gguf
import numpy as np

SEED = 1
WIDTH, LAYERS, HEADS, KV_HEADS, FEED = 64, 2, 4, 2, 128
CONTEXT = 32768

CONTROL = ["<|end|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
WORDS = ["the", "and", "ing", "in", "er", "to", "of", "is", "he", "user", "assistant", "system", " the", " a", " and", " of", " to", " word"]

TEMPLATE = (
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if m.content is string else '' }}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def alphabet():
    """The 256 characters that stand for bytes in GPT-2's vocabularies: those
    that print stand for themselves, the others are moved behind U+0100."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table, moved = {b: chr(b) for b in kept}, 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + moved)
            moved += 1
    return [table[b] for b in range(256)]


def vocabulary():
    """Tokens by their ids, and the merges that make words of bytes."""
    letters = alphabet()
    tokens, merges = list(letters), []
    known = set(tokens)
    for word in WORDS:
        left = ""
        for b in word.encode():
            right = letters[b]
            if left and left + right not in known:
                merges.append(f"{left} {right}")
                tokens.append(left + right)
                known.add(left + right)
            left += right
    return tokens, merges


def tensors(size):
    """The model's weights: noise that keeps the length of what passes it."""
    random = np.random.default_rng(SEED)

    def noise(rows, columns, gain=1.0):
        return (random.standard_normal((rows, columns)) * gain / np.sqrt(columns)).astype(np.float32)

    kv = WIDTH // HEADS * KV_HEADS
    yield "token_embd.weight", noise(size, WIDTH, np.sqrt(WIDTH))
    for i in range(LAYERS):
        yield f"blk.{i}.attn_norm.weight", np.ones(WIDTH, np.float32)
        yield f"blk.{i}.attn_q.weight", noise(WIDTH, WIDTH)
        yield f"blk.{i}.attn_k.weight", noise(kv, WIDTH)
        yield f"blk.{i}.attn_v.weight", noise(kv, WIDTH)
        yield f"blk.{i}.attn_output.weight", noise(WIDTH, WIDTH)
        yield f"blk.{i}.ffn_norm.weight", np.ones(WIDTH, np.float32)
        yield f"blk.{i}.ffn_gate.weight", noise(FEED, WIDTH)
        yield f"blk.{i}.ffn_up.weight", noise(FEED, WIDTH)
        yield f"blk.{i}.ffn_down.weight", noise(WIDTH, FEED)
    yield "output_norm.weight", np.ones(WIDTH, np.float32)
    yield "output.weight", noise(size, WIDTH, 4.0)  # so that the best token is a clear one


def main(out):
    letters, merges = vocabulary()
    tokens = letters + CONTROL
    kinds = [gguf.TokenType.NORMAL] * len(letters) + [gguf.TokenType.CONTROL] * len(CONTROL)

    w = gguf.GGUFWriter(out + ".part", "llama")
    w.add_name("tiny")
    w.add_context_length(CONTEXT)
    w.add_embedding_length(WIDTH)
    w.add_block_count(LAYERS)
    w.add_feed_forward_length(FEED)
    w.add_head_count(HEADS)
    w.add_head_count_kv(KV_HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(WIDTH // HEADS)
    w.add_rope_freq_base(10000.0)
    w.add_vocab_size(len(tokens))
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types(kinds)
    w.add_token_merges(merges)
    w.add_eos_token_id(tokens.index("<|im_end|>"))
    w.add_pad_token_id(tokens.index("<|pad|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)
    for name, t in tensors(len(tokens)):
        w.add_tensor(name, t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.replace(out + ".part", out)  # whole, or not there


if __name__ == "__main__":
    main(sys.argv[1])
