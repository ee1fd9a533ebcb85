"""Preflight: the adapter's size is that of its layers, and the estimate covers what is written."""

from pathlib import Path

import pytest

from llamaforge import hardware, paths
from llamaforge.catalog.store import Store
from llamaforge.errors import RefusedError
from llamaforge.gguf.header import Header, read_header
from llamaforge.gguf.model_file import read_model
from llamaforge.recipe.launch import LaunchSettings
from llamaforge.recipe.preflight import (
    Needs,
    adapter_parameters,
    check_disk,
    check_memory,
    frozen_bytes,
    needs_of,
)
from llamaforge.recipe.resolve import ModelFacts, resolve
from llamaforge.recipe.spec import (
    DataChoice,
    ModelChoice,
    Phase,
    PublishChoice,
    Recipe,
    RunSpec,
)
from llamaforge.recipe.training_settings import TrainingSettings
from tools.ollama_models import write_ollama_model
from tools.random_models import Vocabulary


@pytest.fixture
def header() -> Header:
    blob = Store.open(paths.embedded_store()).require_trainable("llamaforge-demo").blob
    assert blob is not None
    return read_header(blob)


def test_the_adapter_has_two_factors_for_each_linear_layer_of_each_block(header: Header) -> None:
    hidden = int(header.own("embedding_length"))
    inner = int(header.own("feed_forward_length"))
    blocks = int(header.own("block_count"))
    heads = int(header.own("attention.head_count"))
    key_value = hidden // heads * int(header.own("attention.head_count_kv", heads))
    attention = 2 * (hidden + hidden) + 2 * (hidden + key_value)
    feed_forward = 3 * (hidden + inner)
    assert adapter_parameters(header, 16) == 16 * blocks * (attention + feed_forward)


def needs(
    header: Header, rows: Path, lora_r: int = 16, publish: str | None = None
) -> tuple[int, int, int]:
    recipe = Recipe(
        model=ModelChoice(name="m"),
        data=DataChoice(sources=[rows]),
        training=TrainingSettings(lora_r=lora_r),
        publish=PublishChoice(name=publish),
    )
    facts = ModelFacts(rows.parent, header.path, "sha256:0", "llama", "Q4_K_M", 1024)
    found = needs_of(resolve(recipe, facts, "r"), header)
    return found.adapter, found.disk, found.memory


def test_the_disk_holds_three_checkpoints_the_adapter_the_rows_and_some_slack(
    header: Header, rows: Path
) -> None:
    adapter, disk, _ = needs(header, rows)
    assert adapter == 4 * adapter_parameters(header, 16)
    assert disk == 10 * adapter + 2 * rows.stat().st_size + 200_000_000


def test_what_is_published_may_need_room_for_a_merged_file(header: Header, rows: Path) -> None:
    _, without, _ = needs(header, rows)
    _, published, _ = needs(header, rows, publish="mine")
    assert published == without + header.path.stat().st_size


def test_a_file_of_ollamas_own_needs_room_for_what_llama_cpp_is_asked_about(
    rows: Path, tmp_path: Path
) -> None:
    path, equivalent = write_ollama_model(tmp_path, "gemma3", Vocabulary.byte_level(), "Q8_0")
    served, plain = read_model(path), read_model(equivalent)
    _, disk, memory = needs(served, rows)
    _, plain_disk, plain_memory = needs(plain, rows)
    assert disk - plain_disk == served.tensor_bytes == plain.tensor_bytes
    assert memory == plain_memory, "what reads pictures is not loaded"


def test_packed_rows_are_counted_as_they_will_be_unpacked(header: Header, rows: Path) -> None:
    _, plain, _ = needs(header, rows)
    packed = rows.rename(rows.with_suffix(".jsonl.gz"))
    assert needs(header, packed)[1] - plain == 18 * packed.stat().st_size


def test_a_larger_rank_needs_more_and_a_model_never_less_memory_than_its_file(
    header: Header, rows: Path
) -> None:
    small, large = needs(header, rows, 4), needs(header, rows, 64)
    assert all(a < b for a, b in zip(small, large, strict=True))
    assert small[2] > header.path.stat().st_size


def test_what_just_fits_is_allowed_and_a_byte_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "free_disk_bytes", lambda place: 1_000)
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 1_000)
    check_disk(tmp_path, 1_000)
    check_memory(Needs(adapter=0, made=0, disk=0, memory=1_000, gpu=0))
    with pytest.raises(RefusedError) as disk:
        check_disk(tmp_path, 1_001)
    with pytest.raises(RefusedError) as memory:
        check_memory(Needs(adapter=0, made=0, disk=0, memory=1_001, gpu=0))
    assert (disk.value.code, memory.value.code) == ("no_disk_space", "no_memory")


def test_the_memory_of_a_gpu_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    card = hardware.Gpu("card", total_bytes=9_000, free_bytes=5_000)
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 1_000)
    monkeypatch.setattr(hardware, "gpus", lambda: [card])
    check_memory(Needs(adapter=0, made=0, disk=0, memory=1_000, gpu=5_000))
    with pytest.raises(RefusedError) as refused:
        check_memory(Needs(adapter=0, made=0, disk=0, memory=1_000, gpu=5_001))
    assert refused.value.code == "no_memory"
    assert "GPU" in refused.value.message


def test_the_disk_of_a_folder_that_is_not_there_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there" / "yet", 1)


def test_phases_may_learn_from_the_same_file(header: Header, rows: Path) -> None:
    phase = Phase(data=DataChoice(sources=[rows]))
    recipe = Recipe(model=ModelChoice(name="m"), data=phase.data, then=[phase])
    facts = ModelFacts(rows.parent, header.path, "sha256:0", "llama", "Q4_K_M", 1024)
    twice = needs_of(resolve(recipe, facts, "r"), header)
    once = needs_of(resolve(recipe.model_copy(update={"then": []}), facts, "r"), header)
    assert twice.made - once.made == 2 * rows.stat().st_size, "each phase keeps its own rows"


def base_of(header: Header, rows: Path, **settings: object) -> RunSpec:
    recipe = Recipe(
        model=ModelChoice(name="m"),
        data=DataChoice(sources=[rows]),
        training=TrainingSettings.model_validate({"compute_dtype": "float32"} | settings),
    )
    facts = ModelFacts(rows.parent, header.path, "sha256:0", "llama", "Q4_K_M", 1024)
    return resolve(recipe, facts, "r")


def launched(spec: RunSpec, **launch: object) -> RunSpec:
    return spec.model_copy(update={"launch": LaunchSettings.model_validate(launch)})


def test_processes_of_one_machine_share_its_memory_and_the_mapped_file(
    header: Header, rows: Path
) -> None:
    packed, dense = base_of(header, rows), base_of(header, rows, base="hub")
    one, two = (needs_of(launched(packed, processes=n), header).memory for n in (1, 2))
    assert two == 2 * one - header.tensor_bytes
    one, two = (needs_of(launched(dense, processes=n), header).memory for n in (1, 2))
    assert two == 2 * one
    far = launched(dense, processes=1, machines=2, rendezvous="host:1")
    assert needs_of(far, header).memory == one, "the other machine has its own"


def test_what_a_gpu_holds_is_not_asked_of_the_machines_memory(header: Header, rows: Path) -> None:
    here = needs_of(base_of(header, rows), header)
    there = needs_of(base_of(header, rows, device="cuda"), header)
    assert (here.gpu, there.gpu) == (0, here.memory)
    assert there.memory < here.memory


def test_a_base_that_is_divided_is_held_in_part_and_read_as_a_whole_by_one_at_a_time(
    header: Header, rows: Path
) -> None:
    spec = base_of(header, rows, base="hub")
    assert frozen_bytes(spec, header) == 4 * header.parameters
    divided = launched(spec, processes=50, fsdp=True)
    kept = frozen_bytes(divided, header)
    blocks = sum(item.elements for name, item in header.tensors.items() if name.startswith("blk."))
    layer = blocks // int(header.own("block_count"))
    whole = header.parameters - blocks
    assert kept == 4 * (whole + layer + blocks // 50)
    saved = 4 * header.parameters - kept
    undivided = needs_of(launched(spec, processes=50), header).memory
    assert undivided - needs_of(divided, header).memory == 49 * saved
