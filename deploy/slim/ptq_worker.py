"""Quantise one static graph (run by quantize.py in a process of its own).

    python deploy/slim/ptq_worker.py GRAPH_STEM CALIBRATION.npy FOLDER ALGO OPERATORS

Paddle's PostTrainingQuantization wants static mode and, on Paddle 3, the old program form; both are set for a whole
process.
"""
import os
import sys

# operators of a graph that each word of quantize.py --ops stands for
OPERATORS = {"conv": ["conv2d", "depthwise_conv2d"], "fc": ["mul", "matmul", "matmul_v2"],
             "matmul": ["mul", "matmul", "matmul_v2"]}


def quantize_graph(stem, images, folder, algo, operators, batch_size=8):
    """Calibrate ``stem``.pdmodel on images float32 [N, ...] and write the 8-bit graph of the same name into ``folder``.

    The graph gets pairs of quantize_linear and dequantize_linear (Paddle's "ONNX format"), which oneDNN's passes turn
    into 8-bit kernels, and weights in 8 bits, one scale per output channel.
    """
    import paddle
    from paddle.static.quantization import PostTrainingQuantization

    class Images(paddle.io.Dataset):
        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            return images[i]

    paddle.enable_static()
    directory, name = os.path.split(stem)
    with paddle.static.program_guard(paddle.static.Program()):
        fed = paddle.static.data("image", [None, *images.shape[1:]], "float32")
    loader = paddle.io.DataLoader(Images(), feed_list=[fed], batch_size=batch_size, return_list=False, num_workers=0,
                                  places=paddle.CPUPlace())
    types = sorted({one for word in operators for one in OPERATORS[word]})
    # no deploy_backend: Paddle 3.3.1 has lost its configuration for oneDNN; these settings are what 2.6.2 has there
    quantizer = PostTrainingQuantization(
        executor=paddle.static.Executor(paddle.CPUPlace()), model_dir=directory, model_filename=f"{name}.pdmodel",
        params_filename=f"{name}.pdiparams", data_loader=loader, batch_size=batch_size, batch_nums=len(loader),
        algo=algo, quantizable_op_type=types, onnx_format=True, weight_quantize_type="channel_wise_abs_max",
        activation_quantize_type="moving_average_abs_max")
    quantizer.quantize()
    quantizer.save_quantized_model(folder, model_filename=f"{name}.pdmodel", params_filename=f"{name}.pdiparams")


if __name__ == "__main__":
    os.environ["FLAGS_enable_pir_api"] = "0"
    import numpy as np
    quantize_graph(sys.argv[1], np.load(sys.argv[2], allow_pickle=False), sys.argv[3], sys.argv[4],
                   sys.argv[5].split(","))
