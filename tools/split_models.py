"""A model as several files, as `llama-gguf-split` makes them."""

import gc
from pathlib import Path

import gguf

_ARRAY = gguf.GGUFValueType.ARRAY


def split_model(source: Path, folder: Path, tensors: int, *, name: str = "model") -> list[Path]:
    """Write the model in `source` into `folder` as files of at most so many tensors, in order."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(folder / f"{name}.gguf", architecture, split_max_tensors=tensors)
    for key, value in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = value.types[0]
        more = {"sub_type": value.types[-1]} if kind is _ARRAY else {}
        writer.add_key_value(key, value.contents(), kind, **more)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    del reader
    gc.collect()
    return sorted(folder.glob(f"{name}-*-of-*.gguf"))
