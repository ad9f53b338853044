#!/usr/bin/env python3
"""Writes a full-size DeepSeek-R1 checkpoint that takes no disk: real names, shapes and offsets in
163 files, and holes where the weights would be (every weight and scale reads as zero).

    make_sparse_r1.py DIR
"""

import argparse
import os

import checkpoint_format as cf

FILES = 163


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("dir")
    args = parser.parse_args()
    os.makedirs(args.dir, exist_ok=True)
    all_tensors = cf.tensors(cf.R1)
    runs = cf.split(all_tensors, FILES)
    assert len(runs) == FILES, len(runs)
    file_of, total = {}, 0
    for i, run in enumerate(runs, 1):
        name = f"model-{i:05d}-of-{FILES:06d}.safetensors"
        head = cf.header(cf.file_order(run))
        size = len(head) + sum(t.bytes for t in run)
        with open(os.path.join(args.dir, name), "wb") as f:
            f.write(head)
            f.truncate(size)
        file_of.update({t.name: name for t in run})
        total += size
    cf.write_index(os.path.join(args.dir, "model.safetensors.index.json"), file_of, all_tensors)
    cf.write_json(os.path.join(args.dir, "config.json"), cf.R1)
    cf.write_json(os.path.join(args.dir, "generation_config.json"), cf.GENERATION)
    print(f"{len(all_tensors)} tensors, {sum(t.bytes for t in all_tensors)} bytes of tensors, "
          f"{total} bytes in {FILES} files")


if __name__ == "__main__":
    main()
