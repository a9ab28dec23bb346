from privimage.release.embedded import png_uri


def test_only_png_files_are_embedded(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    (tmp_path / "b.png").write_text("<svg onload='alert(1)'/>")
    assert (png_uri(tmp_path / "a.png") or "").startswith("data:image/png;base64,")
    assert png_uri(tmp_path / "b.png") is None
    assert png_uri(tmp_path / "c.png") is None
