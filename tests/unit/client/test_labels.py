import os
import traceback
import zipfile

import numpy as np
import pytest

from septum.errors import DataError
from septum_client import demographics, labels, pseudonyms, table_text

SECRET = "Meier^Anna"


def read(folder, text, names=("sick",)):
    (folder / "labels.csv").write_text(text)
    return labels.read(labels.find(folder), names)


def refused(folder, text, names=("sick",)):
    with pytest.raises(DataError) as caught:
        read(folder, text, names)
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    assert caught.value.remedy
    assert caught.value.__context__ is None
    return str(caught.value)


def test_labels_strata_and_rows_are_read(tmp_path):
    table = read(
        tmp_path,
        "patient_id,other,sick,meta_dose,old\nA,zzz,1,0.5,0\n\nB,,0,,1.0\n",
        ("old", "sick"),
    )
    assert table.values.tolist() == [[0, 1], [1, 0]]
    assert table.values.dtype == np.float32
    assert table.numbers.tolist() == [2, 4]
    assert list(table.meta) == ["dose"]
    assert np.array_equal(table.meta["dose"], [0.5, np.nan], equal_nan=True)


def test_a_row_for_the_image_goes_before_the_row_for_its_patient(tmp_path):
    table = read(tmp_path, "patient_id,sop_instance_uid,sick\nA,,0\nA,1.2,1\n,1.3,1\n")
    assert table.row_of("A", "1.2") == 1
    assert table.row_of("A", "9.9") == 0
    assert table.row_of("Z", "1.3") == 2
    assert table.row_of("Z", "9.9") is None


def test_a_row_that_names_another_patient_than_its_image_is_an_error(tmp_path):
    table = read(tmp_path, f"patient_id,sop_instance_uid,sick\n{SECRET},1.2,0\n")
    with pytest.raises(DataError, match=r"^Row 2 .*another patient") as caught:
        table.row_of("B", "1.2")
    assert SECRET not in str(caught.value)


def test_the_csv_is_labels_csv_or_the_only_one(tmp_path):
    with pytest.raises(DataError, match="no labels CSV"):
        labels.find(tmp_path)
    (tmp_path / f"{SECRET}.CSV").write_text("")
    assert labels.find(tmp_path).name == f"{SECRET}.CSV"
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(DataError, match="2 CSV files") as caught:
        labels.find(tmp_path)
    assert SECRET not in str(caught.value)
    (tmp_path / "labels.csv").write_text("")
    assert labels.find(tmp_path).name == "labels.csv"


def test_a_missing_column_is_named_beside_what_is_there(tmp_path):
    told = refused(tmp_path, f"patient_id,ill,{SECRET} born 1950\n", ("sick", "ill"))
    assert "no column sick; its columns are patient_id, ill." in told


def test_without_a_header_row_no_cell_is_shown(tmp_path):
    assert "no column patient_id" in refused(tmp_path, f"{SECRET},1\nB,0\n")
    assert "no column patient_id" in refused(tmp_path, "")


@pytest.mark.parametrize("cell", ["2", "", "yes", "0.5", "-1", SECRET, "nan"])
def test_a_label_that_is_not_binary_is_found_by_row_and_column(tmp_path, cell):
    told = refused(tmp_path, f"patient_id,sick\nA,1\n{SECRET},{cell}\n")
    assert told.startswith("Row 3, column sick of the labels CSV is neither 0 nor 1.")


@pytest.mark.parametrize("cell", ["x", "inf", SECRET, "1e99"])
def test_a_stratum_that_is_not_a_number_is_found_by_row_and_column(tmp_path, cell):
    told = refused(tmp_path, f"patient_id,sick,meta_d\n{SECRET},1,{cell}\n")
    assert told.startswith("Row 2, column meta_d of the labels CSV is not a number.")


@pytest.mark.parametrize("second", ["1", "0"])
def test_two_rows_with_one_key_are_an_error_even_when_they_agree(tmp_path, second):
    told = refused(tmp_path, f"patient_id,sick\n{SECRET},1\nB,0\n{SECRET},{second}\n")
    assert told.startswith("Rows 2 and 4 of the labels CSV label the same patient.")
    told = refused(tmp_path, f"sop_instance_uid,sick\n1.2,1\n1.2,{second}\n")
    assert told.startswith("Rows 2 and 3 of the labels CSV label the same image.")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"patient_id,sick\n{SECRET}\n", "Row 2 of the labels CSV has 1 cells and the header 2."),
        ("patient_id,sick\n ,1\n", "Row 2 of the labels CSV names neither"),
        ("patient_id,sick,sick\nA,1,1\n", "two columns of the same name"),
        ("patient_id,sick,meta_a b\nA,1,1\n", "Column 3 of the labels CSV has a meta_ name"),
        (f'patient_id,sick\n"{SECRET},1\n', "not UTF-8 text in comma-separated form"),
        (f"patient_id,sick\n{SECRET * 20000},1\n", "not UTF-8 text in comma-separated form"),
    ],
)
def test_malformed_tables_are_errors(tmp_path, text, told):
    assert told in refused(tmp_path, text)


def test_other_encodings_are_an_error_that_quotes_nothing(tmp_path):
    (tmp_path / "labels.csv").write_bytes("patient_id,sick\nMüller,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8") as caught:
        labels.read(tmp_path / "labels.csv", ("sick",))
    assert caught.value.__context__ is None


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xef\xbb\xbfpatient_id,sick\r\nA,1\r\n")
    assert labels.read(tmp_path / "labels.csv", ("sick",)).row_of("A", "") == 0


def test_a_labels_csv_that_cannot_be_opened_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "labels.csv").write_text("patient_id,sick\n")

    def denied(*args, **kwargs):
        raise PermissionError(13, "denied", str(tmp_path / SECRET))

    monkeypatch.setattr(type(tmp_path), "read_bytes", denied)
    with pytest.raises(DataError, match="cannot be read") as caught:
        labels.read(tmp_path / "labels.csv", ("sick",))
    assert caught.value.__context__ is None
    assert os.fspath(tmp_path) not in str(caught.value)


def test_a_huge_labels_csv_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(table_text, "MAX_BYTES", 10)
    assert "larger than" in refused(tmp_path, "patient_id,sick\nA,1\n")


def test_unknown_rows_are_counted_and_the_first_are_numbered(tmp_path):
    rows = "".join(f"{SECRET}{i},1\n" for i in range(9))
    table = read(tmp_path, "patient_id,sick\nA,0\n" + rows)
    with pytest.raises(DataError) as caught:
        table.require_known({"A"}, set(), unidentified=0)
    told = str(caught.value)
    assert told.startswith("9 label row(s) name a patient or image that is not in the folder: ")
    assert "rows 3, 4, 5, 6, 7 and 4 more" in told
    assert SECRET not in told


def test_files_too_broken_to_tell_their_owner_excuse_as_many_rows(tmp_path):
    table = read(tmp_path, "patient_id,sick\nA,0\nB,1\nC,1\n")
    table.require_known({"A"}, set(), unidentified=2)
    with pytest.raises(DataError):
        table.require_known({"A"}, set(), unidentified=1)


KEY = b"k" * 32


def test_a_file_s_row_goes_before_its_patient_s_and_after_its_image_s(tmp_path):
    table = read(
        tmp_path,
        "patient_id,sop_instance_uid,file,sick\nA,,,0\nA,,a/1.nii,1\nA,1.2,a/2.nii,1\n",
    )
    assert table.row_of("", "", file="a/1.nii") == 1
    assert table.patients[1] == "A"
    assert table.row_of("A", "1.2", file="a/1.nii") == 2
    assert table.row_of("A", "", file="a/9.nii") == 0
    assert table.row_of("", "", file="a/2.nii") is None
    assert table.row_of("", "") is None


@pytest.mark.parametrize("said", ["x.zip/a/é.nii", ".\\x.zip\\a\\é.nii", "x.zip/a/e\u0301.nii"])
@pytest.mark.parametrize("found", ["x.zip/a/é.nii", "x.zip/a/e\u0301.nii"])
def test_a_path_is_found_however_its_system_writes_it(tmp_path, said, found):
    table = read(tmp_path, f"patient_id,file,sick\nA,{said},1\n")
    assert table.row_of("", "", file=found) == 0


def test_a_file_s_row_that_names_another_patient_than_the_file_is_an_error(tmp_path):
    table = read(tmp_path, f"patient_id,file,sick\n{SECRET},a,0\n")
    with pytest.raises(DataError, match=r"^Row 2 .*another patient") as caught:
        table.row_of("B", "", file="a")
    assert SECRET not in str(caught.value)


def test_a_row_for_a_file_must_say_whose_it_is(tmp_path):
    told = refused(tmp_path, f"patient_id,file,sick\n,{SECRET}.nii,1\n")
    assert told.startswith("Row 2 of the labels CSV names a file and no patient.")


def test_two_rows_for_one_file_are_an_error(tmp_path):
    told = refused(tmp_path, f"patient_id,file,sick\nA,{SECRET},1\nB,./{SECRET},1\n")
    assert told.startswith("Rows 2 and 3 of the labels CSV label the same file.")


def test_a_row_for_a_file_that_is_not_there_is_counted(tmp_path):
    table = read(tmp_path, f"patient_id,file,sick\nA,a,0\nA,{SECRET},1\n")
    table.require_known({"A"}, set(), files={"a", SECRET}, unidentified=0)
    with pytest.raises(DataError, match=r"^1 label row.*row 3") as caught:
        table.require_known({"A"}, set(), files={"a"}, unidentified=0)
    assert SECRET not in str(caught.value)


def test_sex_and_age_are_read_for_files_only(tmp_path):
    table = read(
        tmp_path,
        "patient_id,file,sick,sex,age\n"
        "A,a,1,F,045Y\nB,b,0,M,6\nC,c,0,,\nD,d,0,O,99\nE,,1,whatever,whenever\n",
    )
    assert [demographics.SEXES[i] for i in table.sexes] == ["F", "M", *["unknown"] * 3]
    assert [demographics.AGE_BANDS[i] for i in table.age_bands] == [
        "40-59",
        "0-17",
        "unknown",
        "80+",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("column", "cell"),
    [("sex", SECRET), ("sex", "f"), ("age", SECRET), ("age", "131"), ("age", "-1")],
)
def test_a_characteristic_that_is_none_is_found_by_row_and_column(tmp_path, column, cell):
    told = refused(tmp_path, f"patient_id,file,sick,{column}\nA,a,1,{cell}\n")
    assert told.startswith(f"Row 2, column {column} of the labels CSV is not ")


def test_a_label_may_be_called_sex(tmp_path):
    table = read(tmp_path, "patient_id,file,sex\nA,a,1\n", ("sex",))
    assert table.values.tolist() == [[1]]
    assert table.sexes == (0,)


def test_columns_beside_a_file_column_leave_out_what_describes_the_patient(tmp_path):
    (tmp_path / "labels.csv").write_text("patient_id,sex,age,sick,meta_x\n")
    assert labels.columns(tmp_path) == ("sex", "age", "sick")
    (tmp_path / "labels.csv").write_text("patient_id,file,sex,age,sick,meta_x\n")
    assert labels.columns(tmp_path) == ("sick",)


def test_a_table_under_pseudonyms_matches_what_the_files_became(tmp_path):
    table = read(
        tmp_path,
        f"patient_id,sop_instance_uid,file,sick\n{SECRET},,,0\n{SECRET},1.2,,1\n,1.3,,1\nB,,b,1\n",
    )
    hidden = table.pseudonymised(KEY)
    own = pseudonyms.pseudonym(KEY, SECRET)
    assert hidden.row_of(own, pseudonyms.uid(KEY, "9.9")) == 0
    assert hidden.row_of(own, pseudonyms.uid(KEY, "1.2")) == 1
    assert hidden.row_of(own, pseudonyms.uid(KEY, "1.3")) == 2
    assert hidden.row_of("", "", file="b") == 3
    assert hidden.row_of(SECRET, "1.2") is None
    assert hidden.patients == (own, own, "", pseudonyms.pseudonym(KEY, "B"))
    assert SECRET not in repr(vars(hidden))
    with pytest.raises(DataError, match="another patient"):
        hidden.row_of(pseudonyms.pseudonym(KEY, "B"), pseudonyms.uid(KEY, "1.2"))


def test_pseudonyms_of_pseudonyms_change_nothing(tmp_path):
    table = read(tmp_path, "patient_id,sop_instance_uid,sick\nA,,0\nA,1.2,1\n")
    once = table.pseudonymised(KEY)
    twice = once.pseudonymised(KEY)
    assert (twice.by_patient, twice.by_instance) == (once.by_patient, once.by_instance)


def test_a_patient_and_its_pseudonym_are_one_patient(tmp_path):
    own = pseudonyms.pseudonym(KEY, SECRET)
    table = read(tmp_path, f"patient_id,sick\n{SECRET},0\nB,0\n{own},1\n")
    with pytest.raises(DataError, match=r"^Rows 2 and 4 .*same patient") as caught:
        table.pseudonymised(KEY)
    assert SECRET not in str(caught.value)


def test_the_table_of_an_archive_is_found_like_a_folder_s(tmp_path):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("out/IM0", "image")
    with pytest.raises(DataError, match="no labels CSV"):
        labels.text_of(archive)
    with zipfile.ZipFile(archive, "a") as out:
        out.writestr("out/labels.csv", "patient_id,sick\nA,1\n")
        out.writestr("out/other.csv", SECRET)
        out.writestr("out/deep/labels.csv", SECRET)
    assert labels.parse(labels.text_of(archive), ("sick",)).row_of("A", "") == 0
    assert labels.columns(archive) == ("sick",)
    (tmp_path / "labels.csv").write_text("patient_id\n")
    assert labels.text_of(tmp_path) == b"patient_id\n"
