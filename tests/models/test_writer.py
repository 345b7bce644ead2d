import json
import sqlite3
import time

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from reverie.errors import InputError, ModelError
from reverie.models.writer import CausalWriter, Seq2SeqWriter, ServerWriter, draw, open_writer
from tests.models import tiny
from tests.models.server import Server

PROMPTS = ["class : red circle", "a photo of the large grey dog on white", "cat", "two small blue"]
SEEDS = [11, 12, 13, 14]


@pytest.fixture(scope="module")
def writer(tiny_writer):
    return open_writer(str(tiny_writer))


def test_a_text_does_not_depend_on_its_batch(writer, tiny_writer):
    together = writer.write(PROMPTS, SEEDS, 12, 1.0, 0.9)
    alone = [writer.write([prompt], [seed], 12, 1.0, 0.9)[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    pairs = open_writer(str(tiny_writer), batch_size=2).write(PROMPTS[::-1], SEEDS[::-1], 12, 1.0, 0.9)[::-1]
    assert together == alone == pairs
    assert len(set(together)) == len(together)


def test_seed_changes_the_text_and_only_the_seed(writer):
    same = writer.write(["cat"] * 3, [1, 1, 2], 12, 1.0, 1.0)
    assert same[0] == same[1] != same[2]


def test_greedy_agrees_with_generate(writer, tiny_writer):
    net = transformers.AutoModelForCausalLM.from_pretrained(tiny_writer)
    ours = writer.write(PROMPTS, SEEDS, 10, 0.0, 1.0)
    for prompt, text in zip(PROMPTS, ours, strict=True):
        ids = writer._tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = net.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert text == writer._tokenizer.decode(made, skip_special_tokens=True).strip()


def test_stops_at_the_end_token(writer, monkeypatch):
    inner, asked = writer.net.forward, []

    def ends_after_two(**inputs):
        output = inner(**inputs)
        asked.append(1)
        if len(asked) == 3:
            output.logits[0, -1, 3] = 1e4  # the end token, in the first row only
        return output

    expected = writer.write(PROMPTS[:2], SEEDS[:2], 8, 1.0, 1.0)
    monkeypatch.setattr(writer.net, "forward", ends_after_two)
    first, second = writer.write(PROMPTS[:2], SEEDS[:2], 8, 1.0, 1.0)
    assert expected[0].split()[:2] == first.split()
    assert second == expected[1]


def test_draw_follows_the_distribution():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    found = draw(logits.expand(1000, 4), uniform, 1.0, 1.0).bincount(minlength=4) / 1000
    torch.testing.assert_close(found, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=2e-3, rtol=0)


def test_draw_keeps_to_the_nucleus():
    logits = torch.tensor([0.1, 0.5, 0.05, 0.35]).log()
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    found = draw(logits.expand(1000, 4), uniform, 1.0, 0.8).bincount(minlength=4) / 1000
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.0, 0.35]) / 0.85, atol=2e-3, rtol=0)
    only = draw(logits.expand(1000, 4), uniform, 1.0, 0.01)
    assert set(only.tolist()) == {1}


def test_draw_temperature():
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    assert draw(logits, torch.tensor([0.99], dtype=torch.float64), 0.0, 1.0).item() == 1
    cold = draw(logits.expand(100, 3), torch.linspace(0.001, 0.999, 100, dtype=torch.float64), 0.05, 1.0)
    assert set(cold.tolist()) == {1}


def test_draw_at_the_borders():
    uniform = torch.tensor([0.0, 1 - 1e-16], dtype=torch.float64)
    assert draw(torch.zeros(2, 5), uniform, 1.0, 1.0).tolist() == [0, 4]
    never = torch.tensor([[-float("inf"), 0.0, -float("inf")]]).expand(2, 3)
    assert draw(never, uniform, 1.0, 1.0).tolist() == [1, 1]


def test_chat_template_is_used(tiny_writer, tmp_path):
    template = (
        "{% for m in messages %}<start> {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}: {% endif %}"
    )
    chat = open_writer(str(tiny.save_writer(tmp_path / "chat", chat_template=template)))
    plain = open_writer(str(tiny_writer))
    assert chat._tokens("a cat") == [2, *plain._tokens("a cat"), *plain._tokens(":")]
    assert chat.write(["a cat"], [1], 8, 1.0, 1.0) == plain.write(["<start> a cat :"], [1], 8, 1.0, 1.0)


def test_a_tokenizer_that_closes_every_text_does_not_close_the_prompt(tmp_path):
    folder = tiny.save_writer(tmp_path / "closing")
    tiny.word_tokenizer(end=True, limit=64).save_pretrained(folder)
    assert open_writer(str(folder))._tokens("a cat")[-1] != 3


def test_a_text_ends_with_the_context_whatever_its_neighbours(writer):
    long = " ".join(["cat"] * 60)  # of 64 places
    alone, room = writer.write([long], [5], 20, 1.0, 1.0), writer.write([long], [5], 4, 1.0, 1.0)
    assert alone == room
    assert writer.write([long, "two"], [5, 6], 20, 1.0, 1.0) == [*alone, *writer.write(["two"], [6], 20, 1.0, 1.0)]


def test_a_prompt_that_fills_the_context(writer):
    with pytest.raises(InputError, match=r"leaves no room for a text: writer@.* takes 64 tokens"):
        writer.write(["cat " * 64], [1], 10, 1.0, 1.0)


def test_memory_that_is_short(tiny_writer, monkeypatch):
    writer = open_writer(str(tiny_writer), batch_size=4)
    expected, inner = writer.write(PROMPTS, SEEDS, 4, 1.0, 1.0), writer.net.forward

    def small(**inputs):
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return inner(**inputs)

    monkeypatch.setattr(writer.net, "forward", small)
    assert writer.write(PROMPTS, SEEDS, 4, 1.0, 1.0) == expected


def test_not_a_language_model(tmp_path):
    with pytest.raises(ModelError, match=r"vit is a vision model \(vit\); what is needed here is a language model"):
        open_writer(str(tiny.save_vit(tmp_path / "vit")))
    with pytest.raises(
        ModelError, match=r"builtin:clip is an encoder of images and texts \(clip\); what is needed here is a language"
    ):
        open_writer("builtin:clip")


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = tiny.save_writer(tmp_path / "writer")
    config = {"model_type": "unheard-of", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Net"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'was_here')!r}).touch()")
    with pytest.raises(ModelError, match="code of its own"):
        open_writer(str(folder))
    assert not (tmp_path / "was_here").exists()


# Sequence to sequence. One architecture that looks at distances and one that counts places.


@pytest.fixture(scope="module", params=[tiny.save_seq2seq, tiny.save_bart], ids=["t5", "bart"])
def translator(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("seq2seq") / "model")


def test_the_configuration_says_which_kind_it_is(translator, writer):
    assert type(open_writer(str(translator))) is Seq2SeqWriter
    assert type(writer) is CausalWriter


def test_a_sampled_text_is_what_the_whole_model_says_token_by_token(translator):
    """The slow way: everything computed anew for each token, nothing kept, no padding, one text at a time."""
    net = transformers.AutoModelForSeq2SeqLM.from_pretrained(translator).eval()
    ours = open_writer(str(translator))
    texts = ours.write(PROMPTS, SEEDS, 12, 0.9, 0.8)
    for prompt, seed, text in zip(PROMPTS, SEEDS, texts, strict=True):
        ids = ours._tokenizer(prompt, return_tensors="pt")["input_ids"]
        uniforms = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        said = [net.config.decoder_start_token_id]
        for number in range(12):
            with torch.no_grad():
                logits = net(input_ids=ids, decoder_input_ids=torch.tensor([said])).logits[:, -1]
            said.append(int(draw(logits, uniforms[number : number + 1], 0.9, 0.8)))
            if said[-1] == net.config.eos_token_id:
                break
        assert text == ours._tokenizer.decode(said[1:], skip_special_tokens=True).strip()


def test_seq2seq_greedy_agrees_with_generate(translator):
    net = transformers.AutoModelForSeq2SeqLM.from_pretrained(translator)
    ours = open_writer(str(translator))
    for prompt, text in zip(PROMPTS, ours.write(PROMPTS, SEEDS, 10, 0.0, 1.0), strict=True):
        ids = ours._tokenizer(prompt, return_tensors="pt")["input_ids"]
        made = net.generate(ids, max_new_tokens=10, do_sample=False, num_beams=1)[0, 1:]
        assert text == ours._tokenizer.decode(made, skip_special_tokens=True).strip()


def test_a_seq2seq_text_does_not_depend_on_its_batch(translator):
    ours = open_writer(str(translator))
    together = ours.write(PROMPTS, SEEDS, 12, 1.0, 0.9)
    alone = [ours.write([prompt], [seed], 12, 1.0, 0.9)[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    pairs = open_writer(str(translator), batch_size=3).write(PROMPTS[::-1], SEEDS[::-1], 12, 1.0, 0.9)[::-1]
    assert together == alone == pairs
    assert (
        len({*together, *ours.write(PROMPTS[:1] * 4, [1, 2, 3, 4], 12, 1.0, 0.9)}) > 4
    )  # seeds and prompts both count


def test_seq2seq_limits(tmp_path):
    counts = open_writer(str(tiny.save_bart(tmp_path / "bart")))
    with pytest.raises(InputError, match=r"a prompt of 26 tokens leaves no room for a text: bart@.* takes 20 tokens"):
        counts.write(["cat " * 24], [1], 10, 1.0, 1.0)
    assert len(counts.write(["cat"], [1], 50, 1.0, 1.0)) == 1  # ends where its places do
    distances = open_writer(str(tiny.save_seq2seq(tmp_path / "t5")))
    assert len(distances.write(["cat " * 100], [1], 30, 1.0, 1.0)) == 1


def test_half_a_seq2seq_model_is_refused(tmp_path):
    folder = tiny.save_seq2seq(tmp_path / "t5")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "decoder" not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"lacks .* of its weights"):
        open_writer(str(folder))


# Servers. Retry-After is a hundredth of a second, so that the tests wait for nothing else.

SOON = {"retry-after-ms": "10"}


def ask(server, cache=None, prompts=PROMPTS, seeds=SEEDS, parallel=1):
    return open_writer(f"openai:m@{server.url}", cache=cache, parallel=parallel).write(prompts, seeds, 20, 0.7, 0.9)


def test_server():
    with Server() as server:
        texts = ask(server, parallel=4)
    assert texts == [f"{prompt} / {seed}" for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    request = server.requests[0]
    assert (request["model"], request["max_tokens"], request["temperature"], request["top_p"]) == ("m", 20, 0.7, 0.9)


@pytest.mark.parametrize("failure", [(429, SOON, "{}"), (500, SOON, "{}"), (503, SOON, "busy")])
def test_server_that_fails_for_a_while(failure):
    with Server([failure, failure, failure]) as server:
        assert len(ask(server, prompts=["cat"], seeds=[1])) == 1
    assert len(server.requests) == 4
    assert all(request == server.requests[0] for request in server.requests)


def test_server_that_hangs_up():
    with Server(["hang up"]) as server:
        assert ask(server, prompts=["cat"], seeds=[1]) == ["cat / 1"]
    assert len(server.requests) == 2


def test_retry_after_is_honoured():
    with Server([(429, {"Retry-After": "1"}, "{}")]) as server:
        start = time.monotonic()
        ask(server, prompts=["cat"], seeds=[1])
    assert time.monotonic() - start >= 1.0


def test_server_that_stays_down(monkeypatch):
    monkeypatch.setattr(ServerWriter, "max_retries", 2)
    with (
        Server([(500, SOON, '{"error": {"message": "overloaded"}}')] * 9) as server,
        pytest.raises(ModelError, match=r"answered 500 for m: .*overloaded"),
    ):
        ask(server, prompts=["cat"], seeds=[1])
    assert len(server.requests) == 3


def test_nobody_there(monkeypatch):
    monkeypatch.setattr(ServerWriter, "max_retries", 0)
    with Server() as server:
        pass
    with pytest.raises(ModelError, match="cannot be reached"):
        ask(server, prompts=["cat"], seeds=[1])


@pytest.mark.parametrize("reply", ["<html>welcome</html>", "{}", "{"])
def test_something_else_than_a_language_model(reply):
    with (
        Server([(200, {}, reply)]) as server,
        pytest.raises(ModelError, match=r"answered without a text|cannot be read"),
    ):
        ask(server, prompts=["cat"], seeds=[1])


def test_refused_requests_are_not_repeated_and_the_key_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    body = '{"error": {"message": "Incorrect API key provided: sk-secret-123"}}'
    with Server([(401, {}, body)]) as server, pytest.raises(ModelError, match="answered 401") as caught:
        ask(server, prompts=["cat"], seeds=[1])
    assert server.keys == ["Bearer sk-secret-123"]
    assert "secret" not in str(caught.value)


def test_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    path = tmp_path / "run" / "requests.sqlite"
    with Server() as server:
        first = ask(server, path)
        assert ask(server, path) == first
        assert len(server.requests) == 4
        assert ask(server, path, seeds=[11, 12, 13, 99])[:3] == first[:3]
        assert len(server.requests) == 5
    assert b"secret" not in path.read_bytes()
    assert sqlite3.connect(path).execute("SELECT count(*) FROM answers").fetchone() == (5,)


@pytest.mark.parametrize("parallel", [1, 4])
def test_what_was_answered_before_a_failure_is_not_asked_again(tmp_path, monkeypatch, parallel):
    monkeypatch.setattr(ServerWriter, "max_retries", 0)
    path = tmp_path / "requests.sqlite"
    with Server([None, None, (500, {}, "{}")]) as server:
        with pytest.raises(ModelError, match="answered 500"):
            ask(server, path, parallel=parallel)
        num_first = len(server.requests)
        assert len(ask(server, path, parallel=parallel)) == 4
    assert num_first >= 3
    assert len(server.requests) == 5  # four answers and one failure, whether the fourth was on its way or not


def test_requests_run_side_by_side():
    with Server() as server:
        ask(server, prompts=[f"cat {number}" for number in range(24)], seeds=range(24), parallel=3)
    assert len(server.requests) == 24
    assert 1 <= server.max_at_once <= 3


class Limited(Server):
    """Bears so many requests at once; the others are answered "too many", to be sent again in a tenth of a second."""

    def __init__(self, bears):
        super().__init__()
        self.bears, self.refused, self.at_once = bears, 0, []

    def _answer(self, http):
        with self._lock:
            self.at_once.append(self._busy)
            too_many = self._busy >= self.bears
            self.refused += too_many
            if too_many:
                self.script.insert(0, (429, {"retry-after-ms": "100"}, "{}"))
        super()._answer(http)

    def _send(self, http, status, headers, body):
        if status == 200:
            time.sleep(0.02)
        Server._send(http, status, headers, body)


def test_fewer_requests_are_on_their_way_while_the_server_says_too_many():
    """Thirty-two at once meet a server that bears four: it is soon asked about as many, and answers keep their order."""
    prompts, seeds = [f"cat {number}" for number in range(300)], list(range(300))
    with Limited(4) as server:
        writer = open_writer(f"openai:m@{server.url}", parallel=32)
        texts = writer.write(prompts, seeds, 20, 0.7, 0.9)
        assert texts == [f"{prompt} / {seed}" for prompt, seed in zip(prompts, seeds, strict=True)]
        assert writer.in_flight.limit < 16
    first, last = server.at_once[:40], server.at_once[-150:]
    assert max(first) >= 4
    assert server.refused < 150, "each request but the first few would have been refused about once"
    assert sum(last) / len(last) <= 8


def test_the_number_on_their_way_grows_again():
    with Server([(429, SOON, "{}")] * 3) as server:
        writer = open_writer(f"openai:m@{server.url}", parallel=8)
        writer.write(["cat"], [1], 20, 0.7, 0.9)
        assert writer.in_flight.limit == 2  # cut to one, each after the cut before, and one answer since
        for turn in range(8):
            writer.write([f"{turn} {number}" for number in range(12)], list(range(12)), 20, 0.7, 0.9)
        assert writer.in_flight.limit == 8
    assert len(server.requests) == 4 + 96


def test_a_burst_of_refusals_is_one_cut():
    """What was on its way when the number was cut had no chance to be fewer."""
    with Server([(429, SOON, "{}")] * 8) as server:
        writer = open_writer(f"openai:m@{server.url}", parallel=8)
        writer.write([f"cat {number}" for number in range(8)], list(range(8)), 20, 0.7, 0.9)
        assert writer.in_flight.limit >= 2
    assert len(server.requests) == 16
