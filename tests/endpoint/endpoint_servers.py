"""Real servers on loopback with a real scikit-learn model, well-behaved and otherwise; they stop by themselves."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

MEMBERS = 120


class World:
    """Records of known membership and an overfitted forest that was trained on half of them."""

    def __init__(self) -> None:
        data = load_breast_cancer()
        order = np.random.default_rng(0).permutation(len(data.target))
        self.inputs, self.labels = data.data[order].round(4), data.target[order]
        self.features = [str(name).replace(" ", "_") for name in data.feature_names]
        # Wrong labels make it learn records by heart.
        wrong = np.random.default_rng(1).random(len(order)) < 0.25
        self.labels = np.where(wrong, 1 - self.labels, self.labels)
        self.model = RandomForestClassifier(15, random_state=0, n_jobs=1)
        self.model.fit(self.inputs[:MEMBERS], self.labels[:MEMBERS])
        assert np.allclose(self.probabilities(self.inputs), self.model.predict_proba(self.inputs))

    def probabilities(self, inputs: Any) -> np.ndarray:
        """What ``predict_proba`` gives, tree by tree: its own threads cost more than the trees of one record."""
        rows = np.asarray(inputs, np.float32).reshape(-1, self.inputs.shape[1])
        votes = [tree.tree_.predict(rows)[:, :2] for tree in self.model.estimators_]
        return np.mean([vote / vote.sum(axis=1, keepdims=True) for vote in votes], axis=0)

    def table(self, path: Path, rows: Any, *, member: bool = True, label: Callable[[int], str] = str) -> Path:
        """A CSV of these rows."""
        lines = [",".join(["id", "label", *(["member"] if member else []), *self.features])]
        for row in rows:
            known = [str(int(row < MEMBERS))] if member else []
            numbers = [repr(float(v)) for v in self.inputs[row]]
            lines.append(",".join([f"patient-{row}", label(int(self.labels[row])), *known, *numbers]))
        path.write_text("\n".join(lines) + "\n")
        return path


class Server:
    """One app with a route for every kind of endpoint; counts what it was asked."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: Counter[str] = Counter()
        self.by_content: dict[str, Counter[str]] = {}
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self._now = 0
        self.app = self._app()

    def reset(self) -> None:
        self.asked.clear()
        self.by_content.clear()
        self.times.clear()
        self.headers.clear()
        self.most_at_once = 0

    async def _inputs(self, request: Request, name: str) -> tuple[Any, int]:
        """The request's JSON, and how often this very content came to this route, this time included."""
        body = await request.body()
        self.asked[name] += 1
        counts = self.by_content.setdefault(name, Counter())
        counts[body.decode()] += 1
        self.times.append(time.monotonic())
        self.headers.append(dict(request.headers))
        return json.loads(body or b"null"), counts[body.decode()]

    def _app(self) -> FastAPI:
        app = FastAPI()
        ask = self.world.probabilities

        @app.post("/predict")
        async def predict(request: Request) -> Any:
            sent, _ = await self._inputs(request, "predict")
            return {"result": {"scores": ask(sent["x"])[0].tolist()}}

        @app.post("/object")
        async def by_name(request: Request) -> Any:
            sent, _ = await self._inputs(request, "object")
            return {"score": float(ask([sent["row"][name] for name in self.world.features])[0, 1])}

        @app.get("/get")
        async def get(x: str) -> Any:
            return {"scores": ask(json.loads(x))[0].tolist()}

        @app.post("/v1/models/forest:predict")
        async def predictions(request: Request) -> Any:
            sent, _ = await self._inputs(request, "predictions")
            return {"predictions": ask(sent["instances"]).tolist()}

        @app.post("/v2/models/forest/infer")
        async def infer(request: Request) -> Any:
            sent, _ = await self._inputs(request, "infer")
            tensor = sent["inputs"][0]
            p = ask(np.reshape(tensor["data"], tensor["shape"]))
            classes = {"name": "predict", "shape": [1], "datatype": "INT64", "data": p.argmax(axis=1).tolist()}
            scores = {"name": "predict_proba", "shape": list(p.shape), "datatype": "FP64", "data": p.ravel().tolist()}
            return {"model_name": "forest", "outputs": [classes, scores]}

        @app.post("/label")
        async def label(request: Request) -> Any:
            sent, _ = await self._inputs(request, "label")
            return {"class": int(ask(sent["x"])[0].argmax())}

        @app.post("/named-label")
        async def named_label(request: Request) -> Any:
            sent, _ = await self._inputs(request, "named-label")
            return {"class": ["malignant", "benign"][int(ask(sent["x"])[0].argmax())]}

        @app.post("/rounded")
        async def rounded(request: Request) -> Any:
            sent, _ = await self._inputs(request, "rounded")
            return {"scores": ask(sent["x"])[0].round(2).tolist()}

        @app.post("/logits")
        async def logits(request: Request) -> Any:
            sent, _ = await self._inputs(request, "logits")
            return {"scores": np.log(ask(sent["x"])[0] + 0.01).tolist()}

        @app.post("/top")
        async def top(request: Request) -> Any:
            sent, _ = await self._inputs(request, "top")
            p = ask(sent["x"])[0]
            best = int(p.argmax())
            return [{"label": ["malignant", "benign"][best], "score": float(p[best])}]

        @app.post("/limited")
        async def limited(request: Request) -> Any:
            sent, times = await self._inputs(request, "limited")
            if times == 1 and self.asked["limited"] % 5 == 0:
                wait = {"Retry-After": "1"} if self.asked["limited"] % 10 else {
                    "Retry-After": formatdate(time.time() + 3601, usegmt=True),
                    "Date": formatdate(time.time() + 3600, usegmt=True),
                }  # fmt: skip
                return JSONResponse({"error": "slow down"}, 429, headers=wait)
            return {"scores": ask(sent["x"])[0].tolist()}

        @app.post("/hour")
        async def hour(request: Request) -> Any:
            await self._inputs(request, "hour")
            return JSONResponse({}, 429, headers={"Retry-After": "3600"})

        @app.post("/always-limited")
        async def always(request: Request) -> Any:
            await self._inputs(request, "always-limited")
            return JSONResponse({}, 429)

        @app.post("/flaky")
        async def flaky(request: Request) -> Any:
            sent, times = await self._inputs(request, "flaky")
            if times == 1 and self.asked["flaky"] % 3 == 0:
                return PlainTextResponse("out of memory", 503)
            return {"scores": ask(sent["x"])[0].tolist()}

        @app.post("/down")
        async def down(request: Request) -> Any:
            await self._inputs(request, "down")
            return PlainTextResponse("down", 500)

        @app.post("/slow")
        async def slow(request: Request) -> Any:
            sent, _ = await self._inputs(request, "slow")
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            await asyncio.sleep(0.03)
            self._now -= 1
            return {"scores": ask(sent["x"])[0].tolist()}

        @app.post("/hangs")
        async def hangs(request: Request) -> Any:
            await self._inputs(request, "hangs")
            await asyncio.sleep(3)
            return {"scores": [0.5, 0.5]}

        @app.post("/shuffled")
        async def shuffled(request: Request) -> Any:
            sent, _ = await self._inputs(request, "shuffled")
            await asyncio.sleep((hash(json.dumps(sent)) % 7) / 1000)
            return {"scores": ask(sent["x"])[0].tolist()}

        @app.post("/refuses-some")
        async def refuses(request: Request) -> Any:
            sent, _ = await self._inputs(request, "refuses-some")
            p = ask(sent["x"])[0]
            return JSONResponse({"detail": "no"}, 422) if sent["x"][0] > 20 else {"scores": p.tolist()}

        @app.post("/echo")
        async def echo(request: Request) -> Any:
            sent, _ = await self._inputs(request, "echo")
            secret = request.headers.get("authorization", "").removeprefix("Bearer ")
            coded = base64.b64encode(secret.encode()).decode()
            said = {"you": dict(request.headers), "again": [secret, coded, secret.upper()], secret: 1}
            return JSONResponse({"scores": ask(sent["x"])[0].tolist(), "debug": said}, headers={"X-Echo": secret})

        @app.post("/echo-denied")
        async def denied(request: Request) -> Any:
            await self._inputs(request, "echo-denied")
            return PlainTextResponse(f"no such key: {request.headers.get('authorization')}", 401)

        @app.post("/echo-html")
        async def echo_html(request: Request) -> Any:
            await self._inputs(request, "echo-html")
            return HTMLResponse(f"<html>{'x' * 140}{request.headers.get('authorization')}</html>")

        @app.post("/echo-class")
        async def echo_class(request: Request) -> Any:
            await self._inputs(request, "echo-class")
            return {"class": request.headers.get("authorization")}

        @app.post("/echo-redirect")
        async def echo_redirect(request: Request) -> Response:
            await self._inputs(request, "echo-redirect")
            return RedirectResponse(f"http://elsewhere.test/?key={request.headers.get('authorization')}", 307)

        @app.post("/html")
        async def html(request: Request) -> Any:
            await self._inputs(request, "html")
            return HTMLResponse("<!DOCTYPE html><title>Log in</title>")

        @app.post("/redirect")
        async def redirect(request: Request) -> Response:
            await self._inputs(request, "redirect")
            return RedirectResponse("/predict", 307)

        @app.post("/loop")
        async def loop(request: Request) -> Response:
            await self._inputs(request, "loop")
            return RedirectResponse("/loop", 307)

        @app.post("/changes")
        async def changes(request: Request) -> Any:
            sent, _ = await self._inputs(request, "changes")
            p = ask(sent["x"])[0].tolist()
            return {"scores": p if self.asked["changes"] <= 20 else [0.0, *p]}

        @app.post("/turns-label")
        async def turns(request: Request) -> Any:
            sent, _ = await self._inputs(request, "turns-label")
            p = ask(sent["x"])[0]
            return {"scores": p.tolist() if self.asked["turns-label"] <= 20 else "benign"}

        @app.post("/turns-html")
        async def turns_html(request: Request) -> Any:
            sent, _ = await self._inputs(request, "turns-html")
            if self.asked["turns-html"] > 20:
                return HTMLResponse("<html>maintenance</html>")
            return {"scores": ask(sent["x"])[0].tolist()}

        @app.post("/nan")
        async def nan(request: Request) -> Response:
            await self._inputs(request, "nan")
            return Response('{"scores": [NaN, 1.0]}', media_type="application/json")

        @app.post("/huge")
        async def huge(request: Request) -> Response:
            await self._inputs(request, "huge")
            return Response('{"scores": [1e999, 0.0]}', media_type="application/json")

        @app.post("/unnormalised")
        async def unnormalised(request: Request) -> Any:
            sent, _ = await self._inputs(request, "unnormalised")
            return {"scores": (0.5 * ask(sent["x"])[0] + 0.1).tolist()}

        @app.post("/percent")
        async def percent(request: Request) -> Any:
            sent, _ = await self._inputs(request, "percent")
            return {"scores": (100 * ask(sent["x"])[0]).tolist()}

        @app.post("/text")
        async def text(request: Request) -> Any:
            await self._inputs(request, "text")
            return PlainTextResponse("0.3 0.7")

        @app.post("/long")
        async def long(request: Request) -> Any:
            await self._inputs(request, "long")
            return {"scores": [0.0] * 5000}

        return app


class Running:
    """A server in a thread, on a free port of loopback, until the block is left."""

    def __init__(self, app: Any, **options: Any) -> None:
        config = uvicorn.Config(app, "127.0.0.1", 0, log_level="critical", lifespan="off", date_header=False, **options)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> int:
        self.thread.start()
        until = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < until and self.thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        return int(self.server.servers[0].sockets[0].getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)
