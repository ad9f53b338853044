#!/usr/bin/env python3
"""Makes the goldens of tests/coordinator/text: what Hugging Face's tokenizers and transformers do with random
strings and conversations.

usage: make_text_goldens.py OUT NAME=FOLDER...      OUT: tests/golden/text
Each FOLDER holds a checkpoint's tokenizer.json and tokenizer_config.json. Made with tokenizers 0.22.2, transformers
4.57.6 and Python 3.11 (Unicode 14). OUT/NAME.bin, little-endian uint32s:
  20000, CRC-32 of all strings (text_strings.make_string of seeds 0 to 19999), then for each string the CRC-32 of its
  ids as uint32s;
  500, then for each conversation (text_strings.make_chat, a generation prompt for two seeds of three) the CRC-32 of
  apply_chat_template's text and of its ids, 0 for odd seeds, whose messages have control tokens.
"""

import array
import os
import struct
import sys
import zlib

import text_strings
import tokenizers
import transformers

STRINGS = 20000
CHATS = 500


def ids_crc(ids):
    return zlib.crc32(array.array("I", ids).tobytes())


def make(name, folder):
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    texts = [text_strings.make_string(seed) for seed in range(STRINGS)]
    out = [STRINGS, zlib.crc32("".join(texts).encode())]
    out += [ids_crc(e.ids) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]

    chat = transformers.AutoTokenizer.from_pretrained(folder)
    tools = "message['role'] == 'tool'" in chat.chat_template
    out.append(CHATS)
    for seed in range(CHATS):
        messages = text_strings.make_chat(seed, tools)
        prompt = seed % 3 != 0
        text = chat.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        ids = chat.apply_chat_template(messages, tokenize=True, add_generation_prompt=prompt)
        out += [zlib.crc32(text.encode()), ids_crc(ids) if seed % 2 == 0 else 0]
    return struct.pack(f"<{len(out)}I", *out)


def main():
    folder_out = sys.argv[1]
    os.makedirs(folder_out, exist_ok=True)
    for argument in sys.argv[2:]:
        name, folder = argument.split("=", 1)
        data = make(name, folder)
        with open(os.path.join(folder_out, name + ".bin"), "wb") as file:
            file.write(data)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
