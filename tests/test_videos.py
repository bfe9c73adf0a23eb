"""Videos as some of their frames, and the text that says from when these are."""

import io

import numpy as np
import pytest
from image_files import encoded, noise

from kerasllm.images import ImageProcessor, ImageTokens, Tiling, read_video
from kerasllm.images.video import frames_to_take

av = pytest.importorskip("av")


def video(kind="mp4", seconds=5, rate=10, size=(48, 64), codec="mpeg4"):
    """The bytes of a video that grows lighter, by 4 of 255 with each frame."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for number in range(seconds * rate):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 4 * number, "uint8"), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi"])
def test_frames_are_those_of_their_seconds(kind, tmp_path):
    (tmp_path / "a.video").write_bytes(video(kind))
    for source in (tmp_path / "a.video", video(kind)):
        found = read_video(source, max_frames=3)
        assert found.seconds == [0.0, 2.4, 4.9] and found.duration == 5.0
        shades = [int(frame.mean()) for frame in found.frames]
        assert np.abs(np.array(shades) - [0, 96, 196]).max() <= 3
        assert found.frames[0].shape == (48, 64, 3)


def test_a_video_is_seen_as_images_are():
    found = read_video(video(seconds=2))
    processor = ImageProcessor(16, tiles=Tiling(64), tokens=ImageTokens(1, style="tiles"))
    assert processor.for_video()(found.frames).shape == (2, 16, 16, 3)
    text = processor.tokens.video_text(found.seconds, found.duration)
    assert text.startswith("You are provided the following series of two frames from a 0:00:02 [H:MM:SS] video.\n")
    assert text.count("<image>") == 2 and "\nFrame from 00:01:<fake" in text


def test_numbers_of_frames():
    for count, words in (
        (1, "one"),
        (13, "thirteen"),
        (20, "twenty"),
        (64, "sixty-four"),
        (112, "one hundred and twelve"),
    ):
        assert f"series of {words} frames" in ImageTokens(1).video_text([0.0] * count, 1)
    assert frames_to_take(1, 24.0).tolist() == [0]
    assert frames_to_take(30 * 100, 30.0, max_frames=10).tolist()[0] == 30  # the first second of a long one is left out


def test_what_is_no_video_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no video file"):
        read_video(tmp_path / "none.mp4")
    playlist = f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/a.mp4\n".encode()  # which FFmpeg would follow
    for data in (b"", b"nothing at all, but long enough", playlist, encoded(noise(4, 4, 3))):
        with pytest.raises(ValueError, match="is no MP4, MOV, WebM, MKV, AVI or GIF file"):
            read_video(data)
    whole = video()
    for data in (whole[:64], whole[:32] + noise(1, len(whole) - 32).tobytes()):
        with pytest.raises(ValueError, match="cannot be decoded"):
            read_video(data)
    with pytest.raises(ValueError, match="max_frames is at least 1"):
        read_video(whole, max_frames=0)
    with pytest.raises(TypeError, match="a path or bytes, got int"):
        read_video(3)


@pytest.mark.soak
def test_damaged_videos_are_refused():
    """What still decodes gives frames; nothing else than a sentence comes of the others, and no crash."""
    draw = np.random.default_rng(0)
    whole = [video(kind) for kind in ("mp4", "matroska", "avi")] + [encoded(noise(9, 9, 3), "GIF")]
    refused = 0
    for number in range(1000):
        file = bytearray(whole[number % 4])
        if number % 3 == 0:
            file = file[: draw.integers(len(file))]
        else:
            reach = 300 if number % 3 == 1 else len(file)
            for place in draw.integers(0, min(reach, len(file)), int(draw.integers(1, 30))):
                file[place] = draw.integers(256)
        try:
            found = read_video(bytes(file), max_frames=4)
            assert 1 <= len(found.frames) <= 4
        except ValueError as error:
            refused += 1
            assert str(error).startswith("This video ") and "\n" not in str(error)
    print(f"{refused} of 1000 refused")
    assert refused > 300
