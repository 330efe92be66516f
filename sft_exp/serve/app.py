"""The prediction server's application: a page, and JSON at /predict."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_exp.errors import DataError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from sft_exp.predict.inference import Predictor


PAGE = Path(__file__).with_name("page.html")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def model_of(path: Path) -> "Predictor":
    """The model in ONNX Runtime. DataError, ConfigError."""
    from sft_exp.core.task import Network
    from sft_exp.models import graphs
    from sft_exp.predict import inference
    from sft_exp.stages import model as models

    found = (
        [path]
        if path.suffix in inference.GRAPHS
        else sorted((path / "export").glob("model.o[nr][nt]*"))
    )
    if found:
        return inference.from_graph(found[0])
    graphs.require_onnx("run", path)
    model = models.load(models.folder_of(path))
    inference.require_classes(path, model.task.predicts)
    if not model.probabilistic:
        raise DataError(
            f"{path}: its SVM leaves votes and no network with logits; take a run of another strategy"
        )
    opened = graphs.session(graphs.from_network(Network(model.task, model.nets), model.spec))
    return inference.Predictor(
        model.spec.image,
        model.spec.classes,
        True,
        lambda x_BCHW: graphs.run(opened, x_BCHW.float().div(255)),
        model.spec.levels,
    )


def app(model: "Predictor", most: int, host: str) -> "FastAPI":
    """GET / is the page, GET /about the classes, POST /predict takes a file's bytes, at most `most`."""
    from fastapi import FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import HTMLResponse, JSONResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    service = FastAPI(title="sft_exp", docs_url=None, redoc_url=None, openapi_url=None)
    # a page elsewhere cannot reach this one by a name of its own that leads here
    if host in LOOPBACK:
        service.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])

    @service.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE.read_text()

    @service.get("/about")
    def about() -> dict[str, Any]:
        return {"classes": model.classes, "image": model.image, "most_bytes": most}

    async def predict(request: Request) -> JSONResponse:
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > most:
                return JSONResponse({"error": f"larger than {most / 1e6:g} MB"}, 413)
        try:
            return JSONResponse(await run_in_threadpool(answer, model, content))
        except DataError as error:
            return JSONResponse({"error": str(error)}, 422)

    service.add_route("/predict", predict, methods=["POST"])
    return service


def answer(model: "Predictor", content: bytes) -> dict[str, Any]:
    """Class and probabilities of an image file's bytes, the likeliest first; DataError if it is no image."""
    from sft_exp.data.decode import decode

    p_Y = model.probabilities(decode(content, model.image, levels=model.levels)[None])[0]
    order = p_Y.argsort(descending=True).tolist()
    return {
        "class": model.classes[order[0]],
        "probabilities": {model.classes[i]: round(p_Y[i].item(), 6) for i in order},
    }
