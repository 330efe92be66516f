"""The prediction server's web application: a page, and JSON at /predict."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft_exp.errors import DataError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from sft_exp.predict.inference import Predictor


PAGE = Path(__file__).with_name("page.html")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def model_of(path: Path) -> "Predictor":
    """A run's or file's model in ONNX Runtime. DataError if it gives no class probabilities;
    ConfigError without ONNX."""
    from sft_exp.core.task import Network
    from sft_exp.models import graphs
    from sft_exp.predict import inference
    from sft_exp.stages import model as models

    if file := inference.graph_of(path) or inference.graph_of(path / "export"):
        return inference.from_graph(file)
    graphs.require_onnx("run", path)
    model = models.load(models.folder_of(path))
    inference.require_classes(path, model.task.predicts)
    if not model.probabilistic:
        raise DataError(
            f"{path}: its SVM gives votes and no probabilities; take a run of another strategy"
        )
    session = graphs.session(graphs.export_onnx(Network(model.task, model.nets), model.spec))
    return inference.Predictor(
        model.spec, True, lambda x_BCHW: graphs.infer(session, x_BCHW.float().div(255))
    ).with_thresholds(model.task.predicts)


WAITING = 16  # requests whose files are held in memory; more are refused with a 503 response
SLOW = 30.0  # seconds that the upload of a file may take
# refused; `curl --data-binary` sends application/x-www-form-urlencoded, which is therefore accepted
NO_IMAGES = ("text/", "multipart/", "application/json")


def app(model: "Predictor", most: int, host: str, pixels: int = 25_000_000) -> "FastAPI":
    """GET / returns the page, GET /about the classes; POST /predict takes a file's bytes.

    Files are decoded one after the other, so that memory does not grow with the number of clients.

    Args:
        model: the classifier.
        most: size limit of a file in bytes.
        host: the address that the server listens on; on a loopback address other host names are
            refused.
        pixels: size limit of an image, read from its header before it is decoded.
    """
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect

    service = FastAPI(title="sft_exp", docs_url=None, redoc_url=None, openapi_url=None)
    if host in LOOPBACK:  # refuses a foreign name that resolves to this machine (DNS rebinding)
        service.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"])
    decoder = ThreadPoolExecutor(1, "decode")
    slots = asyncio.Semaphore(WAITING)

    @service.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE.read_text()

    @service.get("/about")
    def about() -> dict[str, Any]:
        return {"classes": model.spec.classes, "image": model.spec.image, "most_bytes": most}

    async def predict(request: Request) -> Response:
        kind = request.headers.get("content-type", "").lower()
        size = request.headers.get("content-length", "0")
        if not same_origin(request.headers):
            return JSONResponse({"error": "comes from another site's page"}, 403)
        if kind.startswith(NO_IMAGES):
            return JSONResponse({"error": f"is no image, but {kind}"}, 415)
        if len(size) > len(str(most)) or int(size) > most:
            return JSONResponse({"error": f"larger than {most / 1e6:g} MB"}, 413)
        if slots.locked():
            later = {"Retry-After": "1"}
            return JSONResponse({"error": "cannot be taken now: too many wait"}, 503, later)
        async with slots:
            try:
                content = await asyncio.wait_for(received(request.stream(), most), SLOW)
                loop = asyncio.get_running_loop()
                result = await loop.run_in_executor(decoder, answer, model, content, pixels)
            except ClientDisconnect:
                return Response(status_code=499)  # the client is gone
            except TimeoutError:
                return JSONResponse({"error": f"did not arrive within {SLOW:g} s"}, 408)
            except OverflowError:
                return JSONResponse({"error": f"larger than {most / 1e6:g} MB"}, 413)
            except DataError as error:
                return JSONResponse({"error": str(error)}, 422)
        return JSONResponse(result)

    service.add_route("/predict", predict, methods=["POST"])
    return service


def same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request does not come from another site's page: browsers send the page's origin
    with each POST."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none"):
        return False
    return origin is None or origin.partition("://")[2] == headers.get("host")


async def received(stream: AsyncIterator[bytes], most: int) -> bytes:
    """A request's body. OverflowError once it exceeds `most` bytes."""
    content = bytearray()
    async for part in stream:
        content += part
        if len(content) > most:
            raise OverflowError
    return bytes(content)


def answer(model: "Predictor", content: bytes, pixels: int | None = None) -> dict[str, Any]:
    """The class and all probabilities, largest first, of an image file; of a multi-label model the
    predicted classes, and the thresholds; a warning where the file holds more bits than the model learnt
    from. DataError if it is no image or too large."""
    from sft_exp.data.decode import look
    from sft_exp.predict.files import of_more_bits

    spec = model.spec
    x_CHW, traits = look(content, spec.image, spec.fit, spec.levels, pixels)
    deep = traits.span is not None and not spec.levels
    warned = {"warning": of_more_bits(1, 1)} if deep else {}
    p_Y = model.probabilities(x_CHW[None])[0]
    order = p_Y.argsort(descending=True).tolist()
    probabilities = {spec.classes[i]: round(p_Y[i].item(), 6) for i in order}
    if model.thresholds is None:
        return {"class": spec.classes[order[0]], "probabilities": probabilities, **warned}
    return {
        "classes": model.present(p_Y),
        "probabilities": probabilities,
        "thresholds": {spec.classes[i]: round(model.thresholds[i].item(), 6) for i in order},
        **warned,
    }
