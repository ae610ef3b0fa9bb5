"""The models that weibotag knows by name: where they come from, how large they are, their hashes and licences."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

HUB = "hf:"
PACKAGE = "package:"


@dataclass(frozen=True)
class Model:
    """One row of the table.

    `name` is a file name, or hf:owner/name. `source` is an https URL, hf:owner/name@revision, or package:folder for a file
    that an installed package carries. `size` in bytes and `sha256` are those of the file; of a hub model, those of its
    model.safetensors. `extra` is what else must be installed to use it.
    """

    name: str
    stage: str
    source: str
    size: int | None
    sha256: str | None
    licence: str
    extra: str | None = None
    note: str = ""


# The files lie in Git LFS, which answers at media.githubusercontent.com.
_ZOO = "https://media.githubusercontent.com/media/opencv/opencv_zoo/47534e27c9851bb1128ccc0102f1145e27f23f98/models"
_ULTRALYTICS = "https://github.com/ultralytics/assets/releases/download"
_CLIP = "https://openaipublic.azureedge.net/clip/models/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"

TABLE = (
    Model(
        "PP-OCRv6_det_small.onnx",
        "ocr, embed",
        "package:rapidocr/models",
        9_929_594,
        "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        "Apache-2.0",
        note="finds lines of text; in the rapidocr wheel",
    ),
    Model(
        "PP-OCRv6_rec_small.onnx",
        "ocr",
        "package:rapidocr/models",
        21_234_383,
        "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        "Apache-2.0",
        note="reads lines of text; in the rapidocr wheel",
    ),
    Model(
        "face_detection_yunet_2023mar.onnx",
        "faces",
        f"{_ZOO}/face_detection_yunet/face_detection_yunet_2023mar.onnx",
        232_589,
        "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
        "MIT",
        note="YuNet",
    ),
    Model(
        "face_detection_yunet_2026may.onnx",
        "faces",
        f"{_ZOO}/face_detection_yunet/face_detection_yunet_2026may.onnx",
        229_738,
        "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0",
        "MIT",
        note="YuNet with inputs of any size",
    ),
    Model(
        "face_recognition_sface_2021dec.onnx",
        "faces",
        f"{_ZOO}/face_recognition_sface/face_recognition_sface_2021dec.onnx",
        38_696_353,
        "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79",
        "Apache-2.0",
        note="SFace: whose face it is",
    ),
    Model(
        "yolo11n.pt",
        "detect",
        f"{_ULTRALYTICS}/v8.3.0/yolo11n.pt",
        5_613_764,
        "0ebbc80d4a7680d14987a577cd21342b65ecfd94632bd9a8da63ae6417644ee1",
        "AGPL-3.0",
        "yolo",
        "80 classes of COCO",
    ),
    Model(
        "yolo26n.pt",
        "detect",
        f"{_ULTRALYTICS}/v8.4.0/yolo26n.pt",
        5_544_453,
        "9b09cc8bf347f0fc8a5f7657480587f25db09b34bf33b0652110fb03a8ad4fef",
        "AGPL-3.0",
        "yolo",
        "80 classes of COCO",
    ),
    Model(
        "yoloe-11s-seg.pt",
        "detect",
        f"{_ULTRALYTICS}/v8.4.0/yoloe-11s-seg.pt",
        27_803_986,
        "8e439445c87338b79d9ce21dec109f4621e26df67e94d26ea1a98c1e64dce3e3",
        "AGPL-3.0",
        "yolo",
        "YOLOE: classes in words, by mobileclip_blt.ts",
    ),
    Model(
        "yoloe-26s-seg.pt",
        "detect",
        f"{_ULTRALYTICS}/v8.4.0/yoloe-26s-seg.pt",
        31_072_171,
        "48f24206bc8680d60cbbfa296b0140da849669b9515058b72f5a945142df0654",
        "AGPL-3.0",
        "yolo",
        "YOLOE: classes in words, by mobileclip2_b.ts",
    ),
    Model(
        "yolov8s-worldv2.pt",
        "detect",
        f"{_ULTRALYTICS}/v8.4.0/yolov8s-worldv2.pt",
        25_923_032,
        "9b2c17ab6124a913e9b3a5c170617920d91b0f01111a8479da69f00e2cf27792",
        "AGPL-3.0",
        "yolo",
        "YOLO-World: classes in words, by ViT-B-32.pt",
    ),
    Model(
        "mobileclip_blt.ts",
        "detect",
        f"{_ULTRALYTICS}/v8.4.0/mobileclip_blt.ts",
        599_764_649,
        "a67804d1b0f07b8b9a20c1761ec0847f34660f5fa338ec70e8f3fce68ed95e54",
        "apple-amlr",
        "yolo",
        "text encoder of YOLOE 11",
    ),
    Model(
        "mobileclip2_b.ts",
        "detect",
        f"{_ULTRALYTICS}/v8.4.0/mobileclip2_b.ts",
        253_794_476,
        "35d7f213e4d75f38514e4656ad3cb91158bd33e3805d8ac349f23b186f66982f",
        "apple-amlr",
        "yolo",
        "text encoder of YOLOE 26",
    ),
    Model(
        "ViT-B-32.pt",
        "detect",
        f"{_CLIP}/ViT-B-32.pt",
        353_976_522,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
        "MIT",
        "yolo",
        "CLIP, text encoder of YOLO-World",
    ),
    Model(
        "hf:PekingU/rtdetr_v2_r18vd",
        "detect",
        "hf:PekingU/rtdetr_v2_r18vd@5650961749fa93567c0d46fc7f43ea4f9e914107",
        80_904_640,
        "d18309d0d7ea57048138885c4c6ecfcb1e24506fc6153b94ad484f8ab62c7115",
        "Apache-2.0",
        "hf",
        "RT-DETRv2: 80 classes of COCO",
    ),
    Model(
        "hf:ustc-community/dfine-nano-coco",
        "detect",
        "hf:ustc-community/dfine-nano-coco@066438d3d8f0da137a37b38fdf3368fd4afceced",
        15_278_996,
        "19e06bdc873da819920a8d373b879721a5b9759d822f8213220bb09abbdab58b",
        "Apache-2.0",
        "hf",
        "D-FINE: 80 classes of COCO",
    ),
    Model(
        "hf:IDEA-Research/grounding-dino-tiny",
        "detect",
        "hf:IDEA-Research/grounding-dino-tiny@a2bb814dd30d776dcf7e30523b00659f4f141c71",
        689_359_096,
        "1a2412ef99bd74bcd3c2a246fa1e48581f8889a1300c9051974741314fc042f3",
        "Apache-2.0",
        "hf",
        "Grounding DINO: classes in words",
    ),
    Model(
        "hf:OFA-Sys/chinese-clip-vit-base-patch16",
        "embed",
        # The main branch has pickles only; this is the conversion that the hub's own bot offers.
        "hf:OFA-Sys/chinese-clip-vit-base-patch16@refs/pr/1",
        None,
        None,
        "not stated",
        "hf",
        "Chinese-CLIP: pictures and Chinese text in one space",
    ),
    Model(
        "hf:facebook/dinov2-small",
        "embed",
        "hf:facebook/dinov2-small@ed25f3a31f01632728cabb09d1542f84ab7b0056",
        88_249_960,
        "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1",
        "Apache-2.0",
        "hf",
        "DINOv2",
    ),
    Model(
        "hf:google/siglip2-base-patch16-224",
        "embed",
        "hf:google/siglip2-base-patch16-224@75de2d55ec2d0b4efc50b3e9ad70dba96a7b2fa2",
        1_500_800_904,
        "612923381c76ec5a9bed335d1c48827e3f2e506ac31b044b63b2031fadee6a0b",
        "Apache-2.0",
        "hf",
        "SigLIP 2: pictures and text in one space",
    ),
)


def match(name: str) -> list[Model]:
    """Return the rows that are called `name`, or that a pattern like face_detection_yunet*.onnx fits; the newest first."""
    found = [model for model in TABLE if name == model.name or fnmatchcase(model.name, name)]
    return sorted(found, key=lambda model: model.name, reverse=True)
