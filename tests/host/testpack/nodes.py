"""The nodes. Their ids start with DCMTest, so that nobody takes them for the pack's."""

import time

import comfy.model_management
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_api.v0_0_2 import ComfyExtension, io

from .stand_ins import PreviewVae, RandomClip, RandomVision, random_text

PAUSE_SECONDS = 60


class TestConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Int.Input("seed", default=0), io.Int.Input("channels", default=4096, max=65536)]
        return io.Schema("DCMTestConditioning", category="DCM tests", inputs=inputs, outputs=[io.Conditioning.Output()])

    @classmethod
    def execute(cls, seed, channels):
        return io.NodeOutput(random_text(seed, channels))


class TestCLIP(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Int.Input("channels", default=4096, max=65536)]
        return io.Schema("DCMTestCLIP", category="DCM tests", inputs=inputs, outputs=[io.Clip.Output()])

    @classmethod
    def execute(cls, channels):
        return io.NodeOutput(RandomClip(channels))


class TestCLIPVision(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("DCMTestCLIPVision", category="DCM tests", inputs=[], outputs=[io.ClipVision.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput(RandomVision())


class TestVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema("DCMTestVAE", category="DCM tests", inputs=[], outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls):
        return io.NodeOutput(PreviewVae())


class TestAgain(io.ComfyNode):
    """Passes a latent on. Another `run` makes what follows run again, with the loaded model as it is."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Latent.Input("latent"), io.Int.Input("run", default=0)]
        return io.Schema("DCMTestAgain", category="DCM tests", inputs=inputs, outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls, latent, run):
        return io.NodeOutput(latent.copy())


class TestCompileEager(io.ComfyNode):
    """torch.compile without a compiler: traces and guards as ever, runs on any machine."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            "DCMTestCompileEager",
            category="DCM tests",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model):
        model = model.clone()
        set_torch_compile_wrapper(model, backend="eager")
        return io.NodeOutput(model)


class TestPause(io.ComfyNode):
    """Stands still in the middle of one network call until an interrupt comes, and tells when it is there."""

    @classmethod
    def define_schema(cls):
        inputs = [io.Model.Input("model"), io.Int.Input("step", default=1, min=1)]
        return io.Schema("DCMTestPause", category="DCM tests", inputs=inputs, outputs=[io.Model.Output()])

    @classmethod
    def execute(cls, model, step):
        def pause(executor, x, timestep, context, *args, **kwargs):
            options = kwargs.get("transformer_options") or next(a for a in reversed(args) if isinstance(a, dict))
            sigmas, sigma = options["sample_sigmas"], float(options["sigmas"][0])
            if int((sigmas[:-1] - sigma).abs().argmin()) == step - 1:
                tell({"step": step, "sigma": sigma})
                deadline = time.monotonic() + PAUSE_SECONDS
                while time.monotonic() < deadline:
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    time.sleep(0.01)
                raise TimeoutError(f"no interrupt came within {PAUSE_SECONDS} s")
            return executor(x, timestep, context, *args, **kwargs)

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "dcm_test_pause", pause)
        return io.NodeOutput(model)


def tell(data: dict) -> None:
    """A websocket message `dcm_test_pause` to whoever queued the prompt."""
    from server import PromptServer

    PromptServer.instance.send_sync("dcm_test_pause", data, PromptServer.instance.client_id)


class TestExtension(ComfyExtension):
    async def get_node_list(self):
        return [TestConditioning, TestCLIP, TestCLIPVision, TestVAE, TestAgain, TestCompileEager, TestPause]
